"use strict";
// The tenant's view. The key is held only in a variable of this page.

let key = null;
let shown = {}; // the data loaded last, with its period
let loads = 0; // number of loads so far: when two loads overlap, the older one is dropped

const ask = (method, path, body) => request(method, path, { "X-API-Key": key }, body);
const manage = async (action, params, more) =>
	(await ask("POST", "api/manage", { action, params: params || {}, ...more })).data;
const month = () => byId("period").value;

// If one part of the page cannot be loaded, the other parts are still shown.
async function part(work) {
	try {
		return { ok: await work() };
	} catch (error) {
		if (error instanceof Refusal && error.status === 401)
			throw error;
		return { failed: sentence(error) };
	}
}

const showOrExplain = (result, make) => (result.failed ? el("p", { class: "notice bad" }, result.failed) : make(result.ok));

// Usage -------------------------------------------------------------------------------------------------------------

// "near" starts where the API starts to warn by default.
function stateOf(usage) {
	if (usage.past_due)
		return usage.tier === "paid" ? "near" : "bad";
	if (usage.calls_limit === null)
		return "good";
	if (usage.calls_remaining <= 0)
		return "bad";
	return usage.calls_used >= 0.9 * usage.calls_limit ? "near" : "good";
}

function verdictOf(usage, state) {
	const free = `${whole(usage.calls_limit || 0)} free calls`;
	if (usage.past_due && usage.tier === "paid")
		return `An invoice is unpaid. Until ${moment(usage.past_due.until)} calls go on; after that only the free calls are left. ` +
			"Add another card to pay it.";
	if (usage.tier === "paid")
		return "Paid: no limit; each call is charged.";
	if (usage.past_due)
		return `An invoice is unpaid, so only the ${free} a month are left since ${moment(usage.past_due.until)}. ` +
			"Add another card to pay it.";
	if (state === "bad")
		return `The ${free} of this month are used up: billable calls are refused until ${usage.period_end.slice(0, 10)}, ` +
			"or until a payment method is added.";
	if (state === "near")
		return `Nearly used up: ${whole(usage.calls_remaining)} of ${free} are left this month.`;
	return `Free: ${whole(usage.calls_remaining)} of ${free} are left this month.`;
}

function showUsage(usage, period) {
	const now = period === thisMonth();
	const state = now ? stateOf(usage) : "good";
	byId("who").textContent = `Tenant ${usage.tenant_id}`;
	byId("who").hidden = false;
	byId("gauge").replaceChildren(gauge(usage.calls_used, usage.calls_limit, state));
	byId("verdict").textContent = now ? verdictOf(usage, state) : `Usage in ${period}.`;
	byId("verdict").className = `notice ${state}`;
	byId("numbers").replaceChildren(...[
		["Tier", usage.tier], ["Billable calls", whole(usage.calls_used)],
		["Remaining", usage.calls_remaining === null ? "no limit" : whole(usage.calls_remaining)],
		["Cost so far", money(usage.cost.amount, usage.cost.currency)],
		["Month", `${usage.period_start.slice(0, 10)} to ${usage.period_end.slice(0, 10)} (UTC)`],
	].flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
	byId("upgrade").hidden = usage.tier === "paid" && !usage.past_due;
}

// Every day of the month up to today, including days without calls.
function daysOf(activity) {
	const known = new Map(activity.by_day.map((d) => [d.day, d]));
	const today = new Date().toISOString().slice(0, 10);
	const { period } = activity;
	const last = new Date(Date.UTC(Number(period.slice(0, 4)), Number(period.slice(5)), 0)).getUTCDate();
	const days = Array.from({ length: last }, (_, i) => `${period}-${String(i + 1).padStart(2, "0")}`);
	return days.filter((day) => day <= today || known.has(day))
		.map((day) => known.get(day) || { day, success: 0, error: 0, denied: 0 });
}

const outcomes = [
	{ name: "success", title: "succeeded", of: (row) => row.success },
	{ name: "error", title: "failed", of: (row) => row.error },
	{ name: "denied", title: "refused", of: (row) => row.denied },
];
const outcomeColumns = outcomes.map((o) => ({ title: o.title, number: true, value: o.of }));

function showDays(activity) {
	const days = daysOf(activity);
	return el("div", {}, columnChart("Calls per day", days, (d) => d.day, outcomes),
		folded("The numbers", table("Calls per day", [{ title: "day", value: (d) => d.day }, ...outcomeColumns], days)));
}

const amountOf = (number, unit) => `${whole(number)} ${unit}${Number(number) === 1 || unit === "sec" ? "" : "s"}`;

// An action whose billing unit has changed has one row for each unit.
function showActions(usage, activity) {
	const billed = new Map();
	for (const row of usage.by_action) {
		const before = billed.get(row.action);
		const units = amountOf(row.quantity, row.billing_unit);
		billed.set(row.action, { calls: Number(row.calls) + (before ? before.calls : 0),
			units: before ? `${before.units}, ${units}` : units });
	}
	const none = { calls: 0, units: "" };
	return table("Calls by action", [
		{ title: "action", value: (row) => row.action, show: (row) => code(row.action) },
		{ title: "billable", number: true, value: (row) => (billed.get(row.action) || none).calls },
		{ title: "units", value: (row) => (billed.get(row.action) || none).units },
		...outcomeColumns,
	], activity.by_action, "No calls in this month.");
}

function coverageOf(activity) {
	const { calls, since, all } = activity.looked_at;
	return all ? `Among all ${whole(calls)} calls on record.`
		: `Among the latest ${whole(calls)} calls, since ${moment(since)}.`;
}

function showFailures(activity) {
	const ofMonth = activity.failures.filter((f) => f.ts.startsWith(activity.period));
	return el("div", {}, el("p", { class: "soft" }, `In ${activity.period}. ${coverageOf(activity)}`), table("Errors and denials", [
		{ title: "when", value: (f) => moment(f.ts) },
		{ title: "action", value: (f) => f.action, show: (f) => code(f.action || "(unreadable)") },
		{ title: "outcome", value: (f) => (f.status === "denied" ? "refused" : "failed"), show: (f) =>
			el("span", { class: f.status === "denied" ? "tag bad" : "tag near" },
				f.status === "denied" ? "refused" : "failed") },
		{ title: "code", value: (f) => f.code, show: (f) => code(f.code) },
		{ title: "why", value: (f) => f.error },
		{ title: "key", value: (f) => f.key_prefix, show: (f) => code(`${f.key_prefix || ""}…`) },
		{ title: "request", value: (f) => f.request_id, show: (f) => code(f.request_id.slice(0, 8)) },
	], ofMonth, "No call failed or was refused in this month.", 10));
}

// Changes: first a dry run, then a dialog with its result, then the call --------------------------------------------

async function change({ title, action, params, text, danger, done }) {
	const before = openDialog();
	const impact = await manage(action, params, { dry_run: true });
	if (openDialog() !== before)
		return;
	dialog({ title, body: [impactOf(impact)], go: { text, danger, run: async () => {
		// A new key for each press of the button, so that a repeat after a lost answer has no further effect.
		const data = await manage(action, params, { idempotency_key: crypto.randomUUID() });
		await done(data);
	} } });
}

// A secret is shown once, in the dialog, and forgotten when the dialog closes.
function showSecret(title, text, value) {
	const field = el("input", { id: "secret", type: "text", readonly: true, class: "code", value, "aria-label": title });
	dialog({ title, close: "I have stored it", body: [el("p", {}, text), field, el("div", { class: "buttons" },
		el("button", { type: "button", onclick: () => copy(value, title) }, "Copy"))] });
	field.select();
}

// If a change ends the key of this page, the page switches to the new key.
async function afterKeyChange(data, own) {
	if (data.api_key) {
		if (own)
			key = data.api_key;
		showSecret("The new key", "This is the only time it is shown." +
			(own ? " This page now uses it." : ""), data.api_key);
	}
	await load();
}

// Keys --------------------------------------------------------------------------------------------------------------

const isOwn = (k) => key !== null && key.startsWith(k.key_prefix);
const keyName = (k) => `${k.name} (${k.key_prefix}…)`;

function createKey() {
	const name = el("input", { id: "key-name", type: "text", maxlength: 100 });
	const expires = el("input", { id: "key-expires", type: "date" });
	// A key can grant only scopes that it has itself.
	const scopes = shown.usage.scopes.map((scope) => el("input", { type: "checkbox", id: `scope-${scope}`, value: scope,
		checked: scope === "manage.read" || scope === "manage.domain" }));
	dialog({ title: "Create a key", body: [
		el("label", { for: "key-name" }, "Name"), name,
		el("fieldset", {}, el("legend", {}, "Scopes"), scopes.map((box) =>
			el("label", { for: box.id }, box, box.value))),
		el("label", { for: "key-expires" }, "Expires at the end of this day (UTC; empty: never)"), expires,
	], go: { text: "Show what will happen", run: async () => {
		const params = { name: name.value.trim(), scopes: scopes.filter((box) => box.checked).map((box) => box.value) };
		if (!params.name || params.scopes.length === 0)
			throw new Refusal({ error: "Give the key a name and at least one scope." }, 0);
		if (expires.value)
			params.expires_at = `${expires.value}T23:59:59Z`;
		await change({ title: "Create a key", action: "iam.keys.create", params, text: "Create the key",
			done: (data) => afterKeyChange(data, false) });
	} } });
}

function rotateKey(k) {
	return change({ title: `Rotate ${keyName(k)}`, action: "iam.keys.rotate", params: { api_key_id: k.api_key_id },
		text: "Rotate the key", done: (data) => afterKeyChange(data, isOwn(k)) });
}

function revokeKey(k) {
	return change({ title: `Revoke ${keyName(k)}`, action: "iam.keys.revoke", params: { api_key_id: k.api_key_id },
		text: "Revoke the key", danger: true, done: async () => {
			if (isOwn(k))
				leave("The key that opened this page was revoked.");
			else
				await load();
		} });
}

function keyButtons(k) {
	if (k.status !== "active")
		return "";
	return el("div", { class: "buttons" },
		el("button", { type: "button", id: `rotate-${k.api_key_id}`, class: "small", "aria-label": `Rotate ${keyName(k)}`,
			onclick: (event) => busy(event.currentTarget, () => rotateKey(k)) }, "Rotate"),
		el("button", { type: "button", id: `revoke-${k.api_key_id}`, class: "small danger", "aria-label": `Revoke ${keyName(k)}`,
			onclick: (event) => busy(event.currentTarget, () => revokeKey(k)) }, "Revoke"));
}

function lastUse(k, activity) {
	const found = activity && activity.keys.find((used) => used.api_key_id === k.api_key_id);
	if (found)
		return moment(found.last_used_at);
	if (!activity)
		return "unknown";
	return activity.looked_at.all ? "never" : `not since ${moment(activity.looked_at.since)}`;
}

function showKeys(keys, activity) {
	const states = { active: "good", expired: "near", revoked: "bad" };
	return el("div", {}, table("Keys", [
		{ title: "name", value: (k) => k.name, show: (k) => el("span", {}, k.name, isOwn(k) && " (used by this page)") },
		{ title: "key", value: (k) => k.key_prefix, show: (k) => code(`${k.key_prefix}…`) },
		{ title: "state", value: (k) => k.status, show: (k) => el("span", { class: `tag ${states[k.status]}` }, k.status) },
		{ title: "last used", value: (k) => lastUse(k, activity) },
		{ title: "expires", value: (k) => (k.expires_at ? moment(k.expires_at) : "never") },
		{ title: "scopes", value: (k) => k.scopes.map((s) => s.replace("manage.", "")).join(" ") },
		{ title: "change", show: keyButtons },
	], keys), el("div", { class: "buttons" },
		el("button", { type: "button", id: "create-key", onclick: createKey }, "Create a key")));
}

// Invoices ----------------------------------------------------------------------------------------------------------

// True if the month gets a row. A month without any use gets none.
const isInvoice = (i) => i.status !== "none" && (i.status !== "open" || i.usage.total_calls > 0 || i.charges.lines.length > 0);

function showInvoice(invoice) {
	const c = invoice.charges;
	if (invoice.status === "none")
		return el("p", {}, `There is no invoice for ${invoice.period}: nothing was charged.`);
	const open = invoice.status === "open";
	return el("div", {},
		el("p", {}, `${invoice.period}: `, el("span", { class: "tag" }, open ? "open: a preview" : invoice.status), " ",
			el("strong", {}, money(c.total_charge, c.currency)),
			`; ${whole(invoice.usage.total_calls)} calls, ${whole(invoice.usage.successful_calls)} of them succeeded.`,
			c.minimum > 0 && c.total_charge > 0 && c.total_charge < c.minimum &&
				` Less than ${money(c.minimum, c.currency)} is carried over to the next month.`,
			invoice.stripe_invoice_id && ` Stripe invoice: ${invoice.stripe_invoice_id}.`),
		table("Invoice lines", [
			{ title: "item", value: (l) => l.description || l.action || l.kind },
			{ title: "calls", number: true, value: (l) => l.calls },
			{ title: "quantity", number: true, value: (l) => l.quantity },
			{ title: "unit price", number: true, value: (l) => l.unit_amount, show: (l) => typeof l.unit_amount === "number" &&
				money(l.unit_amount, c.currency) },
			{ title: "amount", number: true, value: (l) => l.amount, show: (l) => money(l.amount, c.currency) },
		], c.lines, "Nothing is charged for this month."));
}

function showInvoices(invoices) {
	return el("div", {}, el("h3", {}, "Selected month"), showInvoice(invoices[0]),
		el("h3", {}, "Earlier months"), table("Invoices", [
			{ title: "month", value: (i) => i.period },
			{ title: "state", value: (i) => i.status },
			{ title: "calls", number: true, value: (i) => i.usage.total_calls },
			{ title: "amount", number: true, value: (i) => i.charges.total_charge,
				show: (i) => money(i.charges.total_charge, i.charges.currency) },
			{ title: "Stripe invoice", value: (i) => i.stripe_invoice_id },
		], invoices.slice(1).filter(isInvoice), "No invoices in the three months before."));
}

// Webhooks ----------------------------------------------------------------------------------------------------------

function createWebhook() {
	const url = el("input", { id: "hook-url", type: "url", maxlength: 2048, placeholder: "https://…" });
	const events = el("input", { id: "hook-events", type: "text", value: "usage.*, key.*" });
	dialog({ title: "Create a webhook", body: [
		el("label", { for: "hook-url" }, "URL"), url,
		el("label", { for: "hook-events" }, "Events (separated by commas; * matches anything)"), events,
	], go: { text: "Show what will happen", run: async () => {
		const params = { url: url.value.trim(), events: events.value.split(",").map((e) => e.trim()).filter((e) => e) };
		await change({ title: "Create a webhook", action: "webhooks.create", params, text: "Create the webhook",
			done: async (data) => {
				showSecret("The signing secret", "This is the only time it is shown.", data.secret);
				await load();
			} });
	} } });
}

const deleteWebhook = (w) => change({ title: `Delete the webhook ${w.url}`, action: "webhooks.delete",
	params: { webhook_id: w.webhook_id }, text: "Delete the webhook", danger: true, done: load });

async function testWebhook(w) {
	await manage("webhooks.test", { webhook_id: w.webhook_id });
	await load();
	say("A test event is queued; its delivery is in the list.");
}

function webhookButtons(w) {
	return el("div", { class: "buttons" },
		el("button", { type: "button", id: `test-${w.webhook_id}`, class: "small", "aria-label": `Test ${w.url}`,
			onclick: (event) => busy(event.currentTarget, () => testWebhook(w)) }, "Test"),
		el("button", { type: "button", id: `delete-${w.webhook_id}`, class: "small danger", "aria-label": `Delete ${w.url}`,
			onclick: (event) => busy(event.currentTarget, () => deleteWebhook(w)) }, "Delete"));
}

function showWebhooks({ webhooks, deliveries }) {
	const urls = new Map(webhooks.map((w) => [w.webhook_id, w.url]));
	const states = { delivered: "good", pending: "near", failed: "bad" };
	return el("div", {}, table("Webhooks", [
		{ title: "URL", value: (w) => w.url, show: (w) => code(w.url) },
		{ title: "events", value: (w) => w.events.join(" ") },
		{ title: "state", value: (w) => w.status },
		{ title: "change", show: webhookButtons },
	], webhooks, "No webhooks."),
	el("div", { class: "buttons" }, el("button", { type: "button", id: "create-webhook", onclick: createWebhook },
		"Create a webhook")),
	el("h3", {}, "Deliveries"), table("Deliveries", [
		{ title: "when", value: (d) => moment(d.created_at) },
		{ title: "event", value: (d) => d.event || d.event_type },
		{ title: "to", value: (d) => urls.get(d.webhook_id), show: (d) => code(urls.get(d.webhook_id)) },
		{ title: "state", value: (d) => d.status, show: (d) => el("span", { class: `tag ${states[d.status]}` }, d.status) },
		{ title: "attempts", number: true, value: (d) => d.attempts },
		{ title: "answer", value: (d) => d.last_status || d.last_error },
	], deliveries, "Nothing was sent in the last 30 days."));
}

// The upgrade -------------------------------------------------------------------------------------------------------

async function upgrade() {
	const before = openDialog();
	const reply = await ask("POST", "api/upgrade/checkout");
	if (openDialog() !== before)
		return;
	const url = new URL(reply.checkout_url);
	if (url.protocol !== "https:" && url.protocol !== "http:")
		throw new Error("the server returned an address that is not a web address");
	dialog({ title: "Add a payment method", close: "Close", body: [
		el("p", {}, "The checkout is ready. It opens in a new tab, on a page of the payment service. " +
			"Come back and refresh this page when you are done."),
		el("p", {}, el("a", { id: "checkout", href: url.href, target: "_blank", rel: "noopener noreferrer" },
			"Go to the checkout")),
		el("p", { class: "soft" }, `It expires ${moment(reply.expires_at)}.`)] });
}

// Loading -----------------------------------------------------------------------------------------------------------

const thisMonth = () => new Date().toISOString().slice(0, 7);

// A list of count months, newest first, starting with from.
function monthsBack(from, count) {
	const [year, number] = from.split("-").map(Number);
	return Array.from({ length: count }, (_, i) => new Date(Date.UTC(year, number - 1 - i, 1)).toISOString().slice(0, 7));
}

// Do not try calls that the key may not make: each refusal would be audited.
const allowed = (usage, scope, work) => (usage.scopes.includes(scope) ? part(work)
	: { failed: `This key may not read this: it needs the scope ${scope}.` });

async function fetchAll(period, wanted) {
	const usage = await ask("GET", `api/usage?period=${period}`);
	if (!wanted())
		return null;
	const [activity, keys, invoices, hooks] = await Promise.all([
		allowed(usage, "manage.read", () => manage("meta.activity", { period })),
		allowed(usage, "manage.iam", () => manage("iam.keys.list", { limit: 200 })),
		part(() => Promise.all(monthsBack(period, 4).map((p) => ask("GET", `api/billing/invoice?period=${p}`)))),
		allowed(usage, "manage.webhooks", async () => ({ webhooks: await manage("webhooks.list"),
			deliveries: await manage("webhooks.deliveries", { limit: 50 }) })),
	]);
	return { period, usage, activity, keys, invoices, hooks };
}

// Runs work and returns its result. Returns null if another load has begun meanwhile: the result is then for another
// month, or for a key that is no longer used. On failure, restores the status text and month of the page.
async function newest(work, before) {
	const mine = ++loads;
	say("Loading…");
	complain("");
	try {
		const all = await work(month(), () => mine === loads);
		return mine === loads ? all : null;
	} catch (error) {
		if (mine !== loads)
			return null;
		say(before.said || "");
		if (before.period)
			byId("period").value = before.period;
		throw error;
	}
}

function show({ period, usage, activity, keys, invoices, hooks }) {
	showUsage(usage, period);
	byId("days").replaceChildren(showOrExplain(activity, showDays));
	byId("by-action").replaceChildren(showOrExplain(activity, (a) => showActions(usage, a)));
	byId("failures").replaceChildren(showOrExplain(activity, showFailures));
	byId("keys").replaceChildren(showOrExplain(keys, (k) => showKeys(k, activity.ok)));
	byId("invoice").replaceChildren(showOrExplain(invoices, showInvoices));
	byId("webhooks").replaceChildren(showOrExplain(hooks, showWebhooks));
}

async function load() {
	const all = await newest(fetchAll, shown);
	if (!all)
		return;
	shown = { ...all, said: `As of ${moment(new Date().toISOString())}.` };
	const focus = keepFocus();
	show(shown);
	focus();
	byId("tenant").hidden = false;
	byId("actions").hidden = false;
	say(shown.said);
}

function leave(why) {
	key = null;
	shown = {};
	loads++;
	for (const id of ["who", "actions", "tenant"])
		byId(id).hidden = true;
	for (const id of ["gauge", "numbers", "days", "by-action", "failures", "keys", "invoice", "webhooks"])
		byId(id).replaceChildren();
	dialog.opener = null;
	closeDialog();
	byId("enter").hidden = false;
	byId("key").focus();
	complain("");
	say(why);
}

async function enter() {
	key = byId("key").value.trim();
	byId("key").value = "";
	// Header values are ASCII, so no other text can be a key.
	if (!/^[!-~]+$/.test(key))
		return leave("This is not an API key.");
	try {
		await load();
		if (!shown.period)
			return;
		byId("enter").hidden = true;
		byId("main").focus({ preventScroll: true });
	} catch (error) {
		leave("");
		complain(error.status === 401 ? "This key is not accepted: it is mistyped, expired or revoked." : sentence(error));
	}
}

// The actions of the header's buttons. The operator's view sets its own actions.
const ofTenant = { load: (button) => busy(button, load), leave: () => leave("The key was forgotten."),
	leaveText: byId("leave").textContent };
let view = ofTenant;

function setView(other) {
	view = other;
	byId("leave").textContent = other.leaveText;
}

byId("period").replaceChildren(...monthsBack(thisMonth(), 13).map((m) => el("option", { value: m }, m)));
byId("enter").addEventListener("submit", (event) => {
	event.preventDefault();
	busy(event.submitter, enter);
});
byId("refresh").addEventListener("click", (event) => view.load(event.currentTarget));
byId("period").addEventListener("change", () => view.load(null));
byId("leave").addEventListener("click", () => view.leave());
byId("upgrade").addEventListener("click", (event) => busy(event.currentTarget, upgrade));
// A page kept in the browser's back/forward cache would keep the key.
window.addEventListener("pagehide", () => view.leave());
