"use strict";
// The operator's view. acpctl console prints a link with a token after the #. The page removes the token from the
// address at once and exchanges it for a session, which is held only in a variable of this page.

let session = null;
let shownOperator = {}; // the period shown, and the status text for it

const askOperator = (period) =>
	request("GET", `console/operator/data?period=${period}`, { Authorization: `Bearer ${session}` });

const card = (title, ...children) => {
	const id = `operator-${idOf(title)}`;
	return el("section", { class: "card", "aria-labelledby": id }, el("h2", { id }, title), ...children);
};
const tiles = (pairs) => el("div", { class: "tiles" }, pairs.map(([name, value]) =>
	el("div", {}, el("dl", {}, el("dt", {}, name), el("dd", {}, value)))));
const percent = (part, of) => (of ? `${((100 * part) / of).toFixed(1)} %` : "–");

// Computed from the outcome columns: the number of calls, and the share that failed.
const callsOf = (row) => row.success + row.error + row.denied;
const rateColumn = { title: "error rate", number: true, value: (row) => percent(row.error, callsOf(row)),
	show: (row) => percent(row.error, callsOf(row)) };

const tierOf = (t) => (t.past_due ? `${t.tier}, past due ${t.tier === "paid" ? "until" : "since"} ${t.past_due.until.slice(0, 10)}` : t.tier);

function showTenants(data) {
	return card("Tenants by usage", el("p", { class: "soft" }, `The 50 tenants with the most billable calls in ${data.period}.`),
		table("Tenants by usage", [
			{ title: "agent", value: (t) => t.agent_id, show: (t) => code(t.agent_id) },
			{ title: "tier", value: tierOf },
			{ title: "billable", number: true, value: (t) => t.billable },
			{ title: "of limit", number: true, value: (t) => (t.limit ? percent(t.billable, t.limit) : "no limit"),
				show: (t) => (t.limit ? percent(t.billable, t.limit) : "no limit") },
			...outcomeColumns,
			{ title: "tenant", value: (t) => t.tenant_id, show: (t) => code(t.tenant_id.slice(0, 8)) },
		], data.tenants));
}

// One chart for each currency: amounts in different currencies cannot be added.
function showRevenue(data) {
	const currencies = [...new Set(data.revenue.map((r) => r.currency))];
	const months = (currency) => monthsBack(thisMonth(), 12).reverse().map((period) =>
		data.revenue.find((r) => r.period === period && r.currency === currency) || { period, amount: 0 });
	return card("Revenue by month",
		currencies.map((currency) => columnChart(`Revenue in ${currency}`, months(currency),
			(r) => r.period, [{ name: "success", title: currency, of: (r) => Number(r.amount) }])),
		table("Revenue by month", [
			{ title: "month", value: (r) => r.period },
			{ title: "paying tenants", number: true, value: (r) => r.paying_tenants },
			{ title: "paid calls", number: true, value: (r) => r.paid_calls },
			{ title: "earned", number: true, value: (r) => r.amount, show: (r) => money(r.amount, r.currency) },
		], data.revenue, "No paid calls yet."),
		el("h3", {}, "Invoices"), table("Invoices", [
			{ title: "month", value: (i) => i.period },
			{ title: "state", value: (i) => i.status },
			{ title: "invoices", number: true, value: (i) => i.invoices },
			{ title: "amount", number: true, value: (i) => i.amount, show: (i) => money(i.amount, i.currency) },
		], data.invoices, "No month has been billed yet."));
}

function showFunnel({ funnel }) {
	const steps = [["onboarded", funnel.tenants], ["made a billable call", funnel.active],
		["upgraded once", funnel.upgraded], ["paid now", funnel.paid]].map(([step, tenants]) => ({ step, tenants }));
	return card("From free to paid", table("From free to paid", [
		{ title: "step", value: (s) => s.step },
		{ title: "tenants", number: true, value: (s) => s.tenants },
		{ title: "of all", number: true, value: (s) => percent(s.tenants, funnel.tenants),
			show: (s) => percent(s.tenants, funnel.tenants) },
	], steps), el("p", { class: "soft" }, `Tenants with an open checkout: ${whole(funnel.setup_pending)}.`));
}

function showErrors(data) {
	const { latest } = data;
	const of = latest.all ? `All ${whole(latest.calls)} calls` : `${whole(latest.calls)} of the calls`;
	return [
		card("Errors by action", el("p", { class: "soft" }, `In ${data.period}.`), table("Errors by action", [
			{ title: "action", value: (a) => a.action, show: (a) => code(a.action) }, ...outcomeColumns, rateColumn,
		], data.by_action)),
		card("Denials", el("p", { class: "soft" }, `${of} since ${moment(latest.since)}.`), table("Denials", [
			{ title: "code", value: (d) => d.code, show: (d) => code(d.code) },
			{ title: "action", value: (d) => d.action, show: (d) => code(d.action || "(none)") },
			{ title: "calls", number: true, value: (d) => d.calls },
		], latest.denials, "No calls were refused.")),
		card("Latency", el("p", { class: "soft" },
			`${of} since ${moment(latest.since)}; in milliseconds, without refused calls.`),
			table("Latency", [
				{ title: "action", value: (l) => l.action, show: (l) => code(l.action) },
				{ title: "calls", number: true, value: (l) => l.calls },
				...["p50_ms", "p95_ms", "p99_ms"].map((name) => ({ title: name.replace("_", " "), number: true,
					value: (l) => l[name] })),
			], latest.latency)),
	];
}

function driftWords(drift) {
	if (!drift.compared)
		return ["near", `This month has ${whole(drift.calls)} calls, too many to compare here. Run acpctl reconcile.`];
	return drift.differences === 0 ? ["good", `Counters and log agree on all ${whole(drift.calls)} calls of this month.`]
		: ["bad", `Counters and log differ in ${whole(drift.differences)} places. Run acpctl reconcile to see them.`];
}

function showState(data) {
	const { state, journal } = data;
	const [kind, words] = driftWords(data.drift);
	return card("State", el("p", { class: `notice ${kind}`, id: "drift" }, words), tiles([
		["Journal rows on this host", whole(journal.rows)],
		["Damaged journal files", whole(journal.bad_files)],
		["Queued for Stripe", whole(state.obligations_owed)],
		["Given up", whole(state.obligations_dead)],
		["Rows for a remote hub", whole(state.audit_outbox)],
		["Webhooks pending", whole(state.deliveries_pending)],
		["Chains last sealed", moment(state.sealed_at) || "never"],
		["Schema", String(state.schema_version)],
	]));
}

function showAllDays(data) {
	const days = daysOf(data);
	return card("Calls per day", columnChart("Calls per day", days, (d) => d.day, outcomes),
		folded("The numbers", table("Calls per day", [{ title: "day", value: (d) => d.day }, ...outcomeColumns], days)));
}

async function loadOperator() {
	const data = await newest(askOperator, shownOperator);
	if (!data)
		return;
	shownOperator = { period: data.period,
		said: `As of ${moment(new Date().toISOString())}. The session ends ${moment(data.expires_at)}.` };
	const focus = keepFocus();
	byId("operator").replaceChildren(showState(data), showAllDays(data), showTenants(data), showRevenue(data),
		showFunnel(data), ...showErrors(data));
	focus();
	byId("operator").hidden = false;
	say(shownOperator.said);
}

function leaveOperator(why) {
	session = null;
	shownOperator = {};
	loads++;
	byId("operator").replaceChildren();
	dialog.opener = null;
	closeDialog();
	for (const id of ["operator", "who", "actions"])
		byId(id).hidden = true;
	// A visitor without a session may still have a key.
	setView(ofTenant);
	byId("enter").hidden = false;
	byId("key").focus();
	say("");
	complain(why);
}

async function reloadOperator(button) {
	await busy(button, () => loadOperator().catch((error) => {
		if (error.status !== 401)
			throw error;
		leaveOperator(error.message);
	}));
}

async function openOperator(link) {
	byId("who").textContent = "Operator view of all tenants";
	say("Opening…");
	try {
		session = (await request("POST", "console/operator/session", { Authorization: `Bearer ${link}` })).session;
		await loadOperator();
	} catch (error) {
		return leaveOperator(sentence(error));
	}
	byId("who").hidden = false;
	byId("actions").hidden = false;
	setView({ load: reloadOperator, leaveText: "End the session",
		leave: () => leaveOperator("The session on this page has ended; a new link opens another one.") });
	byId("main").focus({ preventScroll: true });
}

const operatorLink = /^#operator=([0-9a-f]{64})$/.exec(location.hash);
if (operatorLink) {
	history.replaceState(null, "", location.pathname);
	openOperator(operatorLink[1]);
} else {
	byId("enter").hidden = false;
}
