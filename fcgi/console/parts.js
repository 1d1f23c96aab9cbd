"use strict";
// The building blocks of both views: elements, charts, tables, a dialog, requests. Text is always set as text, never as
// markup, so that data about other people's calls cannot become part of the page.

const byId = (id) => document.getElementById(id);

// The part of the address before /console: the page can be mounted anywhere.
const root = new URL("..", document.currentScript.src);

function fill(node, attributes, children) {
	for (const [name, value] of Object.entries(attributes || {})) {
		if (name.startsWith("on"))
			node.addEventListener(name.slice(2), value);
		else if (value !== undefined && value !== null && value !== false)
			node.setAttribute(name, value === true ? "" : value);
	}
	node.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
	return node;
}

// el("p", {class: "soft"}, "text", other, …)
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
// Identifiers for machines; a long action name may wrap after a dot.
const code = (text) => el("span", { class: "code" }, String(text || "").split(/(?<=[.])/).flatMap((piece, i) =>
	(i ? [el("wbr"), piece] : [piece])));
const svg = (tag, attributes, ...children) =>
	fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const whole = (number) => Number(number).toLocaleString("en");

// Shows all digits of the amount: prices can be below a cent.
function money(amount, currency) {
	const digits = { minimumFractionDigits: 2, maximumFractionDigits: 9 };
	return `${Number(amount).toLocaleString("en", digits)} ${currency || ""}`.trim();
}

const moment = (text) => (text ? text.slice(0, 16).replace("T", " ") + " UTC" : "");

// Each focusable element has an id, so that it can be found again when the page is redrawn; see keepFocus.
const idOf = (name) => name.toLowerCase().replaceAll(/[^a-z]+/g, "-");

// Requests ----------------------------------------------------------------------------------------------------------

class Refusal extends Error {
	constructor(reply, status) {
		super(reply.error || `the server answered ${status}`);
		this.code = reply.code || "";
		this.status = status;
		this.reply = reply;
	}
}

async function request(method, path, headers, body) {
	const sent = { Accept: "application/json", ...headers };
	if (body !== undefined)
		sent["Content-Type"] = "application/json";
	let answer;
	try {
		answer = await fetch(new URL(path, root), {
			method, headers: sent, body: body === undefined ? undefined : JSON.stringify(body),
			cache: "no-store", credentials: "omit", redirect: "error", referrerPolicy: "no-referrer",
		});
	} catch {
		throw new Refusal({ error: "The server cannot be reached. Try again in a moment." }, 0);
	}
	const reply = await answer.json().catch(() => ({}));
	if (!answer.ok || reply.ok !== true)
		throw new Refusal(reply, answer.status);
	return reply;
}

// Status -------------------------------------------------------------------------------------------------------------

function say(text) {
	byId("status").textContent = text;
}

function complain(text) {
	byId("problem").textContent = text || "";
	byId("problem").hidden = !text;
}

const sentence = (error) => (error instanceof Refusal ? error.message
	: "Something on this page failed: " + error.message);

// A busy button is not "disabled", because it would then lose the focus.
const isBusy = (button) => button.getAttribute("aria-disabled") === "true";
const setWorking = (button, working) => button.setAttribute("aria-disabled", String(working));

// Runs work while the button is switched off, and shows any error.
async function busy(button, work) {
	if (button && isBusy(button))
		return;
	if (button)
		setWorking(button, true);
	try {
		await work();
	} catch (error) {
		complain(sentence(error));
	} finally {
		if (button)
			setWorking(button, false);
	}
}

// True if no element has the focus, or if it is in the dialog, which returns it.
const lacksFocus = () => document.activeElement === document.body || byId("dialog").contains(document.activeElement);
const isSeen = (node) => node !== null && node.isConnected && node.getClientRects().length > 0;

// The element that gets the focus instead of a removed one: the one with the same id, or the heading of its section.
function successorOf(focused, part, unfolded) {
	const same = byId(focused.id);
	const fold = same && unfolded && same.closest("details");
	if (fold)
		fold.open = true;
	if (isSeen(same))
		return same;
	const heading = byId(part.getAttribute("aria-labelledby"));
	heading.tabIndex = -1;
	return heading;
}

// Call this before a part of the page is redrawn or hidden, and the returned function afterwards. It moves the focus to
// the successor of the element that had it, and does the same for the element to which a dialog returns the focus.
function keepFocus() {
	const focused = lacksFocus() ? dialog.opener : document.activeElement;
	const part = focused && focused.closest("section");
	const unfolded = focused && focused.closest("details[open]");
	return () => {
		if (!part || isSeen(focused))
			return;
		const successor = successorOf(focused, part, unfolded);
		if (dialog.opener)
			dialog.opener = successor;
		if (!byId("dialog").open)
			successor.focus({ preventScroll: true });
	};
}

// CSV ---------------------------------------------------------------------------------------------------------------

// RFC 4180. A cell that a spreadsheet would interpret as a formula gets a leading quote.
function cell(value) {
	let text = value === null || value === undefined ? "" : String(value);
	if (typeof value === "string" && /^[=+\-@\t\r]/.test(text))
		text = "'" + text;
	return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const csv = (columns, rows) =>
	[columns, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";

async function copy(text, what) {
	try {
		await navigator.clipboard.writeText(text);
		say(`${what} copied.`);
	} catch {
		// Browsers offer the clipboard only to https pages.
		const area = el("textarea", { readonly: true, "aria-label": what }, text);
		dialog({ title: what, body: [area], close: "Close" });
		area.select();
	}
}

const csvButton = (name, columns, rows) =>
	el("button", { type: "button", class: "small", id: `csv-${idOf(name)}`, "aria-label": `Copy as CSV: ${name}`,
		onclick: () => copy(csv(columns, rows), `${name} as CSV`) }, "Copy as CSV");

// Tables ------------------------------------------------------------------------------------------------------------

// In narrow windows the style turns each row into a block; because of the roles, screen readers still see a table.
// columns: {title, value: row => text (also for CSV), show?: row => node, number?: true}
// few: the number of rows shown initially; a button shows the rest.
function table(name, columns, rows, none, few = Infinity) {
	if (rows.length === 0)
		return el("p", { class: "soft" }, none || "Nothing yet.");
	const kind = (column) => (column.number ? "number" : column.title === "when" ? "when" : undefined);
	const head = el("tr", { role: "row" }, columns.map((c) =>
		el("th", { role: "columnheader", scope: "col", class: kind(c) }, c.title)));
	const show = (c, row) => {
		if (c.show)
			return c.show(row);
		const value = c.value(row);
		return c.number && value !== null && value !== undefined ? whole(value) : value;
	};
	const line = (row, i) => el("tr", { role: "row", hidden: i >= few }, columns.map((c) =>
		el("td", { role: "cell", "data-title": c.title, class: kind(c) }, el("span", {}, show(c, row)))));
	const data = columns.filter((c) => c.value);
	const lines = rows.map(line);
	const more = () => `Show ${lines[few].hidden ? `all ${whole(rows.length)}` : `the first ${few}`}`;
	const toggle = (event) => {
		lines.slice(few).forEach((tr) => { tr.hidden = !tr.hidden; });
		event.currentTarget.textContent = more();
	};
	return el("div", {},
		el("div", { class: "scroll", role: "region", tabindex: "0", id: `table-${idOf(name)}`, "aria-label": name },
			el("table", { role: "table" }, el("thead", { role: "rowgroup" }, head),
				el("tbody", { role: "rowgroup" }, lines))),
		el("div", { class: "buttons" },
			rows.length > few && el("button", { type: "button", class: "small", id: `more-${idOf(name)}`, onclick: toggle },
				more()),
			csvButton(name, data.map((c) => c.title), rows.map((row) => data.map((c) => c.value(row))))));
}

// Charts ------------------------------------------------------------------------------------------------------------

const point = (angle) => `${110 - 90 * Math.cos(angle * Math.PI)} ${110 - 90 * Math.sin(angle * Math.PI)}`;
const arc = (part) => `M ${point(0)} A 90 90 0 0 1 ${point(part)}`;

// A half circle that shows used of limit (null: no limit).
function gauge(used, limit, state) {
	const part = limit ? Math.min(used / limit, 1) : 0;
	const words = limit === null ? `${whole(used)} calls, no limit` : `${whole(used)} of ${whole(limit)} calls used`;
	return svg("svg", { viewBox: "0 0 220 140", role: "img", "aria-label": words },
		svg("path", { d: arc(1), class: "track", fill: "none", "stroke-width": 18, "stroke-linecap": "round" }),
		part > 0 && svg("path", { d: arc(part), class: `meter ${state}`, fill: "none", "stroke-width": 18,
			"stroke-linecap": "round" }),
		svg("text", { x: 110, y: 104, "text-anchor": "middle", class: "big" }, whole(used)),
		svg("text", { x: 110, y: 128, "text-anchor": "middle", class: "faint" },
			limit === null ? "calls, no limit" : `of ${whole(limit)} calls`));
}

// Rounds up to 1, 2 or 5 times a power of ten, also below 1.
function ceiling(value) {
	const power = 10 ** Math.floor(Math.log10(value));
	return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= value);
}

const swatch = (name) => svg("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" },
	svg("rect", { width: 10, height: 10, class: name }));

// One column per row, with stacked parts. series: [{name, title, of: row => number}]
function columnPicture(name, rows, label, series, { width, height, labels, kind }) {
	const left = 48, right = 10, bottom = 24, top = 8;
	const sum = (row) => series.reduce((total, s) => total + s.of(row), 0);
	const most = ceiling(Math.max(0, ...rows.map(sum)) || 1);
	const y = (value) => top + (height - top - bottom) * (1 - value / most);
	const step = (width - left - right) / Math.max(rows.length, 1);
	const every = Math.ceil(rows.length / labels);
	const lines = [0, 0.5, 1].filter((part) => most < 1 || Number.isInteger(part * most)).map((part) => svg("g", {},
		svg("line", { x1: left, x2: width, y1: y(part * most), y2: y(part * most), class: "grid" }),
		svg("text", { x: left - 6, y: y(part * most) + 4, "text-anchor": "end", class: "faint" },
			(part * most).toLocaleString("en", { maximumSignificantDigits: 3 }))));
	const columns = rows.map((row, i) => {
		let below = 0;
		const x = left + i * step + step * 0.15;
		const boxes = series.filter((s) => s.of(row) > 0).map((s) => {
			below += s.of(row);
			return svg("rect", { x, y: y(below), width: step * 0.7, height: y(below - s.of(row)) - y(below), class: s.name });
		});
		const words = series.map((s) => `${whole(s.of(row))} ${s.title}`).join(", ");
		return svg("g", {}, svg("title", {}, `${label(row)}: ${words}`), boxes,
			i % every === 0 && svg("text", { x: x + step * 0.35, y: height - 6, "text-anchor": "middle", class: "faint" },
				label(row).replace(/^\d{4}-(?=..-)/, "")));
	});
	const total = rows.reduce((all, row) => all + sum(row), 0);
	return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: kind, "aria-label":
		`${name}: ${whole(total)} in ${rows.length} columns; the table below has the numbers` }, lines, columns);
}

// Two pictures, for wide and narrow windows; the style shows one of them.
const columnChart = (name, rows, label, series) => el("div", {},
	el("ul", { class: "legend" }, series.map((s) => el("li", {}, swatch(s.name), s.title))),
	columnPicture(name, rows, label, series, { width: 720, height: 220, labels: 10, kind: "wide" }),
	columnPicture(name, rows, label, series, { width: 330, height: 200, labels: 5, kind: "narrow" }));

const folded = (title, ...children) =>
	el("details", {}, el("summary", { id: `fold-${idOf(title)}` }, title), ...children);

// The dialog --------------------------------------------------------------------------------------------------------

// Removes the content of a dialog, for example a new key, from the page. Returns the focus to the element that opened
// the dialog, unless the focus has moved.
function afterDialog() {
	byId("dialog-body").replaceChildren();
	if (dialog.opener && lacksFocus())
		dialog.opener.focus({ preventScroll: true });
	dialog.opener = null;
}

function closeDialog() {
	byId("dialog").close();
	afterDialog();
}

// The open dialog, or false. Compare it before and after a request: a late answer must not open a dialog over another one
// that was opened meanwhile, or in place of one that was closed.
const openDialog = () => byId("dialog").open && dialog.go;

// go: {text, danger?, run: async () => …}; to keep the dialog open, run throws or opens another one.
function dialog({ title, body, go, close }) {
	const box = byId("dialog");
	if (!box.open)
		afterDialog();
	byId("dialog-title").textContent = title;
	byId("dialog-body").replaceChildren(...body);
	byId("dialog-problem").hidden = true;
	byId("dialog-go").hidden = !go;
	byId("dialog-go").textContent = go ? go.text : "";
	byId("dialog-go").className = go && go.danger ? "danger" : "first";
	byId("dialog-close").textContent = close || "Cancel";
	dialog.go = go;
	setWorking(byId("dialog-go"), false);
	if (!box.open) {
		dialog.opener = document.activeElement;
		box.showModal();
	}
	const first = byId("dialog-body").querySelector("input, select, textarea, a[href]");
	(first || (go && !go.danger ? byId("dialog-go") : byId("dialog-close"))).focus();
}

byId("dialog-form").addEventListener("submit", async (event) => {
	event.preventDefault();
	const go = dialog.go;
	if (!go || isBusy(byId("dialog-go")))
		return;
	setWorking(byId("dialog-go"), true);
	byId("dialog-problem").hidden = true;
	try {
		await go.run();
		if (dialog.go === go)
			closeDialog();
	} catch (error) {
		// The dialog was closed meanwhile, so show the error on the page.
		if (dialog.go !== go || !byId("dialog").open)
			return complain(sentence(error));
		byId("dialog-problem").textContent = sentence(error);
		byId("dialog-problem").hidden = false;
	} finally {
		if (dialog.go === go)
			setWorking(byId("dialog-go"), false);
	}
});
byId("dialog-close").addEventListener("click", closeDialog);
// Escape.
byId("dialog").addEventListener("cancel", (event) => {
	event.preventDefault();
	closeDialog();
});
// The browser may close the dialog on its own. The event arrives in a separate task, after keys pressed meanwhile. By
// then another dialog may be open, which must keep its content.
byId("dialog").addEventListener("close", () => {
	if (!byId("dialog").open)
		afterDialog();
});

// Puts a value of an impact into words, without ids, which mean nothing to people, and without JSON.
function wordsOf(value) {
	if (Array.isArray(value))
		return value.map(wordsOf).join(", ");
	if (typeof value === "object")
		return pairsOf(value).join(", ");
	return /^\d{4}-\d\d-\d\dT[\d:.]+Z$/.test(value) ? moment(value) : String(value);
}

// The members of an object as "name: value", with `changes` flattened; for the type only its value.
const pairsOf = (item) => Object.entries({ ...item, changes: null, ...item.changes })
	.filter(([name, value]) => value !== null && !name.endsWith("_id") && !(name === "count" && value === 1))
	.map(([name, value]) => (name === "type" ? wordsOf(value).replaceAll("_", " ").replace("api key", "API key")
		: `${name.replaceAll("_", " ")}: ${wordsOf(value)}`));

// The result of a dry run for people: one line per change.
function impactOf(impact) {
	const lists = [["creates", "creates"], ["updates", "changes"], ["deletes", "deletes"], ["side_effects", "also"]];
	const words = (item) => (typeof item === "string" ? item : pairsOf(item)
		.sort((a, b) => a.includes(":") - b.includes(":")).join("; "));
	const lines = lists.flatMap(([name, verb]) => (impact[name] || []).map((item) =>
		el("li", {}, el("strong", {}, verb), " ", words(item))));
	const cost = impact.estimated_cost;
	return el("div", { id: "impact" },
		el("p", {}, "This is what will happen. Risk: ", el("strong", {}, impact.risk), "."),
		lines.length > 0 ? el("ul", {}, lines) : el("p", {}, "Nothing changes."),
		(impact.warnings || []).map((text) => el("p", { class: "notice bad" }, `Warning: ${text}.`)),
		cost && Number(cost.amount) > 0 && el("p", {}, `Costs ${money(cost.amount, cost.currency)}.`));
}
