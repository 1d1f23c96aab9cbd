// The story of an agent that uses only the generated client: it onboards, calls, gets the warning, is refused, and reads
// its usage.
// Compiled with --strict: every member used here is in the description, with its type.
import { createClient, createConfig } from './client/client';
import * as api from './client';

declare const process: { argv: string[]; exitCode: number };

let passed = 0;
let failed = 0;

function check(what: string, ok: boolean, seen?: unknown): void {
	if (ok) {
		passed++;
		console.log('ok ' + what);
	} else {
		failed++;
		console.log('FAIL ' + what + (seen === undefined ? '' : ': ' + JSON.stringify(seen)));
	}
}

const baseUrl = process.argv[2] ?? '';
const agent_id = 'generated-' + Math.random().toString(36).slice(2);
const anonymous = createClient(createConfig({ baseUrl }));

const score: api.CallDomainLeadscoringScoresCompute = {
	action: 'domain.leadscoring.scores.compute',
	params: { weights: { visits: 0.5, employees: 0.01 }, leads: [{ id: 'lead-1', features: { visits: 12, employees: 250 } }] },
};

async function onboard(): Promise<string> {
	const options = {
		client: anonymous, path: { product: 'leadscoring' }, body: { agent_id, email: 'ops@example.com' },
		headers: { 'Idempotency-Key': agent_id + '-9d41f0a7c3b2e865' },
	};
	const first = await api.onboard(options);
	const again = await api.onboard(options);
	check('onboard: 201 with a key', first.response.status === 201 && first.data?.api_key.startsWith('ock_') === true, first.error);
	check('onboard: a repeat with its Idempotency-Key gets the same reply', first.data?.api_key === again.data?.api_key, again.error);
	check('onboard: nested members are typed', first.data?.pricing.per_call === 0.001 && first.data.pricing.currency === 'USD' &&
		first.data.instructions.setup_steps.length > 0 && first.data.upgrade_info.upgrade_url.startsWith('http'), first.data);
	const taken = await api.onboard({ client: anonymous, path: { product: 'leadscoring' }, body: { agent_id, email: 'x@example.com' } });
	check('onboard: the error for a used agent_id says what to do',
		taken.response.status === 409 && taken.error?.code === 'ALREADY_ONBOARDED' && /another agent_id/.test(taken.error.error), taken.error);
	return first.data?.api_key ?? '';
}

async function call(client: ReturnType<typeof createClient>): Promise<void> {
	const actions = await api.manage({ client, body: { action: 'meta.actions' } });
	check('call: meta.actions', actions.data?.ok === true && !actions.data.dry_run, actions.error);
	const model: api.CallDomainLeadscoringModelsCreate = {
		action: 'domain.leadscoring.models.create', params: { name: 'm1', model_type: 'linear' }, dry_run: true,
	};
	const dry = await api.manage({ client, body: model });
	const impact = dry.data?.data as api.Impact | undefined;
	check('call: a dry run returns its impact', dry.data?.dry_run === true && impact?.creates.length === 1 && impact.risk === 'low', dry.error);
	const keyed = { client, body: score, headers: { 'Idempotency-Key': 'once-' + agent_id } };
	const first = await api.manage(keyed);
	const replay = await api.manage(keyed);
	const scores = (first.data?.data as { scores: { id: string; score: number }[] } | undefined)?.scores;
	check('call: the result', scores?.[0]?.score === 8.5, first.error);
	check('call: a replay is marked as such', first.data?.code === undefined && replay.data?.code === 'IDEMPOTENT_REPLAY', replay.error);
	const wrong = await api.manage({ client, body: { ...score, params: { ...score.params, leads: [] } } });
	check('call: the error names the wrong member', wrong.error?.code === 'VALIDATION_ERROR' && wrong.error.field === '/params/leads', wrong.error);
	const stranger = await api.manage({ client: anonymous, body: { action: 'meta.version' } });
	check('call: 401 without a key', stranger.error?.code === 'INVALID_API_KEY' && stranger.response.status === 401, stranger.error);
}

async function useUp(client: ReturnType<typeof createClient>): Promise<void> {
	let warned = 0;
	for (let n = 2; n <= 100; n++) {
		const reply = await api.manage({ client, body: score });
		if (!reply.data)
			check('call ' + n, false, reply.error);
		if (!warned && reply.data?.warning?.upgrade_url.startsWith('http') && reply.data.warning.usage?.calls_used === n)
			warned = n;
	}
	check('limit: the 90th call warns', warned === 90, warned);
	const refused = await api.manage({ client, body: score });
	check('limit: the 101st call gets 402 with a link for a human, not retryable', refused.response.status === 402 &&
		refused.error?.code === 'UPGRADE_REQUIRED' && refused.error.retryable === false &&
		refused.error.upgrade_url?.startsWith('http') === true && refused.error.usage?.calls_remaining === 0, refused.error);
	const free = await api.manage({ client, body: { action: 'meta.version' } });
	check('limit: actions that are not billable still work', free.data?.ok === true, free.error);
}

async function usage(client: ReturnType<typeof createClient>): Promise<void> {
	const now = await api.usage({ client });
	check('usage: typed numbers', now.data?.calls_used === 100 && now.data.calls_limit === 100 && now.data.calls_remaining === 0 &&
		now.data.tier === 'free' && now.data.cost.amount === 0, now.error ?? now.data);
	check('usage: by action and day', now.data?.by_action[0]?.action === score.action && now.data.by_action[0].calls === 100 &&
		now.data.by_day.reduce((sum, day) => sum + day.calls, 0) === 100, now.data);
	const past = await api.usage({ client, query: { period: '2020-01' } });
	check('usage: another month', past.data?.calls_used === 0, past.error);
}

async function documents(): Promise<void> {
	const catalog = await api.catalog({ client: anonymous });
	check('catalog: a linkset', catalog.data?.linkset.length === 1, catalog.error);
	const text = await api.llms({ client: anonymous });
	check('llms: a text', typeof text.data === 'string' && text.data.includes('/api/onboard/'), text.error);
	const ready = await api.ready({ client: anonymous });
	check('ready', ready.data?.status === 'ready', ready.error);
}

async function main(): Promise<void> {
	const client = createClient(createConfig({ baseUrl, auth: await onboard() }));
	await call(client);
	await useUp(client);
	await usage(client);
	await documents();
}

main().catch((error) => check('the story', false, String(error))).finally(() => {
	console.log(`suite openapi-client: ${passed} passed, ${failed} failed, 0 skipped`);
	process.exitCode = failed ? 1 : 0;
});
