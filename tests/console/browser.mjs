// The steps of tests/console/run in the browser. Standard input: {console, shots, tenants, operator, only, times}. Runs
// each step whose name contains `only`, `times` times. Prints one line per run: "ok NAME", or "FAIL NAME" with the reason.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const task = JSON.parse(readFileSync(0, "utf8"));
const axeFile = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const WIDTHS = { wide: 1200, narrow: 360 };

const browser = await chromium.launch({
	executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage"],
});

function check(condition, message) {
	if (!condition)
		throw new Error(message);
}

const equal = (found, wanted, what) =>
	check(JSON.stringify(found) === JSON.stringify(wanted),
		`${what}: ${JSON.stringify(found)} instead of ${JSON.stringify(wanted)}`);

// Opens a new page. No script may fail on it, and no request may go to another server.
async function open(options = {}, fragment = "") {
	const context = await browser.newContext({ viewport: { width: WIDTHS.wide, height: 900 }, reducedMotion: "reduce",
		...options });
	const page = await context.newPage();
	page.setDefaultTimeout(30000);
	page.faults = [];
	page.on("pageerror", (error) => page.faults.push(`error: ${error.message}`));
	page.on("console", (message) => {
		// The browser also reports refused requests here. The page shows them.
		if (message.type() === "error" && !/status of 4\d\d/.test(message.text()))
			page.faults.push(message.text());
	});
	page.on("request", (request) => {
		if (!request.url().startsWith(new URL(task.console).origin) && !request.url().startsWith("data:"))
			page.faults.push(`request to ${request.url()}`);
	});
	await page.goto(task.console + fragment);
	return page;
}

async function loaded(page) {
	const how = await page.waitForFunction(() =>
		(document.getElementById("status").textContent.startsWith("As of") && "ok") ||
		document.getElementById("problem").textContent);
	equal(await how.jsonValue(), "ok", "the status of the page");
}

async function enter(page, tenant) {
	await page.fill("#key", tenant.api_key);
	await page.click("#enter button");
	await loaded(page);
}

async function close(page) {
	equal(page.faults, [], "faults");
	await page.context().close();
}

let failed = 0;
let done = 0;
async function once(name, work) {
	done++;
	try {
		await work();
		console.log(`ok ${name}`);
	} catch (error) {
		failed++;
		console.log(`FAIL ${name}\n     ${String(error.stack || error).replaceAll("\n", "\n     ")}`);
	}
}

async function step(name, work) {
	for (let i = 0; name.includes(task.only) && i < task.times; i++)
		await once(name, work);
}

async function axe(page) {
	await page.evaluate(readFileSync(axeFile, "utf8"));
	const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
	const serious = violations.filter((v) => v.impact === "serious" || v.impact === "critical");
	equal(serious.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ")).join("; ")}`), [], "axe");
}

async function fits(page) {
	const [content, available] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
	check(content <= available, `the page is ${content} wide in a window of ${available}`);
	const [inside, dialog] = await page.evaluate(() => {
		const box = document.getElementById("dialog");
		return [box.scrollWidth, box.clientWidth];
	});
	check(inside <= dialog, `the content of the dialog is ${inside} wide, the dialog ${dialog}`);
}

const focused = (page) => page.evaluate(() => document.activeElement.id);

async function expectFocus(page, id) {
	await page.waitForFunction((wanted) => document.activeElement.id === wanted, id, { timeout: 10000 })
		.catch(async () => equal(await focused(page), id, "focus"));
}

// Holds back the close events of dialogs. Returns a function that sends one to the page.
async function holdCloseEvents(page) {
	await page.addInitScript(() => {
		let pass = false;
		addEventListener("close", (event) => pass || event.stopImmediatePropagation(), true);
		globalThis.sendClose = () => {
			pass = true;
			document.getElementById("dialog").dispatchEvent(new Event("close"));
			pass = false;
		};
	});
	await page.reload();
	return () => page.evaluate(() => globalThis.sendClose());
}

// Refreshes the page. The answer arrives after the focus has moved.
async function redraw(page, place, address, alter = () => {}) {
	let go;
	const moved = new Promise((resolve) => { go = resolve; });
	await page.route(address, async (route) => {
		const answer = await route.fetch();
		const json = await answer.json();
		alter(json);
		await moved;
		await route.fulfill({ response: answer, json });
	}, { times: 1 });
	await page.press("#refresh", "Enter");
	await page.focus(place);
	go();
	await loaded(page);
}

// Checks that each focusable element keeps the focus. Tries only the first row of a table: the buttons of all rows are
// alike.
async function keepsFocus(page, view, address) {
	const ids = await page.locator(`${view} :is(button, summary, [tabindex="0"])`).evaluateAll((all) => all
		.filter((node) => !node.closest("tr:not(:first-child), [hidden]")).map((node) => node.id));
	check(ids.length > 10 && !ids.includes(""), `focusable elements: ${ids}`);
	for (const id of ids) {
		await page.evaluate(() => document.querySelectorAll("details").forEach((node) => { node.open = true; }));
		await redraw(page, `#${id}`, address);
		equal(await focused(page), id, "focus after a refresh");
	}
}

// Returns the number of refusals for missing scopes in the log of a tenant.
async function scopeDenials(tenant) {
	const reply = await fetch(task.console.replace(/console$/, "api/manage"), { method: "POST",
		headers: { "X-API-Key": tenant.api_key, "Content-Type": "application/json" },
		body: JSON.stringify({ action: "meta.activity", params: { limit: 200 } }) });
	return (await reply.json()).data.failures.filter((f) => f.code === "SCOPE_DENIED").length;
}

// Delays answers for this address, so that later ones arrive first.
async function delay(page, address) {
	const late = { arrived: null };
	late.arrived = new Promise((resolve) => {
		page.route(address, async (route) => {
			const answer = await route.fetch();
			await new Promise((go) => { setTimeout(go, 1500); });
			await route.fulfill({ response: answer });
			resolve();
		});
	});
	return late;
}

const text = (page, selector) => page.locator(selector).innerText();

async function shoot(page, name, fullPage = false) {
	for (const [width, pixels] of Object.entries(WIDTHS)) {
		await page.setViewportSize({ width: pixels, height: 1400 });
		await fits(page);
		await page.evaluate(() => scrollTo(0, 0));
		await page.screenshot({ path: `${task.shots}/${name}-${width}.png`, fullPage });
	}
	await page.setViewportSize({ width: WIDTHS.wide, height: 900 });
}

// The page itself ---------------------------------------------------------------------------------------------------

await step("strict policy, kept parts", async () => {
	const page = await fetch(task.console);
	const policy = page.headers.get("content-security-policy");
	for (const part of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'",
		"frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"])
		check(policy.includes(part), `${part} is not in ${policy}`);
	check(!/unsafe|\*/.test(policy), policy);
	equal(page.headers.get("content-type"), "text/html; charset=utf-8", "type");
	const parts = [...(await page.text()).matchAll(/(?:src|href)="(console\/[^"]+)"/g)].map((m) => m[1]);
	equal(parts.length, 4, "parts");
	for (const part of parts) {
		const answer = await fetch(new URL(part, task.console));
		equal([answer.status, answer.headers.get("cache-control")], [200, "public, max-age=31536000, immutable"], part);
	}
	equal((await fetch(task.console, { method: "POST" })).status, 405, "POST");
});

await step("an invalid key is refused with a message", async () => {
	const page = await open();
	await axe(page);
	await page.fill("#key", task.tenants.free.api_key.slice(0, -1) + "x");
	await page.keyboard.press("Enter");
	await page.waitForSelector("#problem:visible");
	check((await text(page, "#problem")).includes("not accepted"), await text(page, "#problem"));
	await close(page);
});

const verdicts = { free: "of 100 free calls are left", near: "Nearly used up: 7 of 100", refused: "are used up",
	paid: "no limit" };
for (const [name, words] of Object.entries(verdicts)) {
	await step(`${name}: shown at both widths, light and dark`, async () => {
		const page = await open();
		await enter(page, task.tenants[name]);
		check((await text(page, "#verdict")).includes(words), await text(page, "#verdict"));
		equal(await page.locator("#upgrade").isVisible(), name !== "paid", "the upgrade button");
		check(await page.locator("#days svg.wide rect").count() > 0, "no column in the chart");
		check((await text(page, "#failures")).includes("VALIDATION_ERROR"), "no failure listed");
		equal((await text(page, "#failures")).includes("UPGRADE_REQUIRED"), name === "refused", "the refusal listed");
		await shoot(page, name);
		await axe(page);
		await page.emulateMedia({ colorScheme: "dark" });
		await axe(page);
		if (name === "paid")
			await shoot(page, "paid-dark");
		await close(page);
	});
}

await step("numbers match the API", async () => {
	const page = await open();
	await enter(page, task.tenants.near);
	const base = task.console.replace(/console$/, "api/");
	const usage = await (await fetch(base + "usage", { headers: { "X-API-Key": task.tenants.near.api_key } })).json();
	equal(await page.getAttribute("#gauge svg", "aria-label"), `${usage.calls_used} of 100 calls used`, "gauge");
	const row = page.locator("#by-action tr", { hasText: "scores.compute" }).locator("td");
	equal(await row.nth(1).innerText(), String(usage.calls_used), "billable calls of the action");
	equal(await row.nth(2).innerText(), `${usage.calls_used} rows`, "units of the action");
	await close(page);
});

await step("numbers are copied as CSV", async () => {
	const page = await open({ permissions: ["clipboard-read", "clipboard-write"] });
	await enter(page, task.tenants.paid);
	await page.click("#by-action button:has-text('Copy as CSV')");
	await page.waitForFunction(() => document.getElementById("status").textContent.includes("copied"));
	const csv = await page.evaluate(() => navigator.clipboard.readText());
	equal(csv.split(/\r?\n/)[0], "action,billable,units,succeeded,failed,refused", "head");
	check(/^domain\.leadscoring\.scores\.compute,\d+,/m.test(csv), csv);
	await close(page);
});

await step("the key is neither in storage, nor in an address, nor in the page", async () => {
	const page = await open();
	await enter(page, task.tenants.free);
	const kept = await page.evaluate(() => JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage),
		document.cookie, location.href, document.documentElement.outerHTML, document.getElementById("key").value]));
	check(!kept.includes(task.tenants.free.api_key.slice(12)), "the key is kept");
	await page.click("#leave");
	check(await page.locator("#key").isVisible(), "the field for the key is hidden");
	equal(await page.locator("#tenant").isVisible(), false, "the tenant's data is visible");
	await close(page);
});

// Months ------------------------------------------------------------------------------------------------------------

await step("the last chosen month is shown, whatever the order of the answers", async () => {
	const page = await open();
	await enter(page, task.tenants.paid);
	const months = await page.locator("#period option").allInnerTexts();
	const late = await delay(page, `**/api/usage?period=${months[1]}`);
	await page.selectOption("#period", months[1]);
	await page.selectOption("#period", months[2]);
	await page.waitForFunction((month) => document.getElementById("verdict").textContent.includes(month), months[2]);
	await late.arrived;
	await page.waitForLoadState("networkidle");
	await loaded(page);
	equal(await page.inputValue("#period"), months[2], "the chosen month");
	check((await text(page, "#verdict")).includes(months[2]), await text(page, "#verdict"));
	check((await text(page, "#numbers")).includes(`${months[2]}-01 to`), await text(page, "#numbers"));
	check((await text(page, "#invoice")).includes(months[2]), await text(page, "#invoice"));
	check(!(await text(page, "#failures")).includes("VALIDATION_ERROR"), "failures of another month");
	await close(page);
});

await step("a failed load keeps the shown data and reports the failure", async () => {
	const page = await open();
	await enter(page, task.tenants.free);
	const [now, before] = await page.locator("#period option").allInnerTexts();
	await page.route("**/api/usage?*", (route) => route.abort());
	await page.selectOption("#period", before);
	await page.waitForSelector("#problem:visible");
	check((await text(page, "#status")).startsWith("As of"), await text(page, "#status"));
	equal(await page.inputValue("#period"), now, "the chosen month");
	page.faults = page.faults.filter((fault) => !fault.includes("ERR_FAILED"));
	await close(page);
});

await step("an answer that arrives after the key was removed shows nothing", async () => {
	const page = await open();
	await enter(page, task.tenants.free);
	const late = await delay(page, "**/api/usage?*");
	const asked = [];
	await page.click("#refresh");
	await page.click("#leave");
	page.on("request", (request) => asked.push(request.url()));
	await late.arrived;
	await page.waitForLoadState("networkidle");
	equal([await page.locator("#tenant").isVisible(), await text(page, "#status")], [false, "The key was forgotten."],
		"the page afterwards");
	equal(await page.locator("#numbers *").count(), 0, "numbers");
	equal(asked, [], "requests after that");
	await close(page);
});

await step("months without an invoice are not listed", async () => {
	const page = await open();
	await enter(page, task.tenants.free);
	const invoices = await text(page, "#invoice");
	check(invoices.includes("No invoices in the three months before."), invoices);
	await close(page);
});

// Changes -----------------------------------------------------------------------------------------------------------

async function confirm(page, first) {
	await page.waitForSelector("#impact");
	check((await text(page, "#impact")).includes(first), await text(page, "#impact"));
	await page.click("#dialog-go");
}

await step("create, rotate and revoke a key, each with a preview", async () => {
	const page = await open();
	await enter(page, task.tenants.free);
	const before = await page.locator("#keys tbody tr").count();
	await page.click("#create-key");
	await page.fill("#key-name", "made in the console");
	await axe(page);
	await page.keyboard.press("Enter");
	await page.waitForSelector("#impact");
	equal(await page.locator("#keys tbody tr").count(), before, "keys after the dry run");
	await axe(page);
	await page.screenshot({ path: `${task.shots}/impact.png` });
	await confirm(page, "creates");
	await page.waitForSelector("#secret");
	const made = await page.inputValue("#secret");
	check(/^ock_[0-9A-Za-z]{36,}$/.test(made), "no key was shown");
	await page.click("#dialog-close");
	await loaded(page);
	await page.waitForSelector("#secret", { state: "detached" }); // the key is gone from the page
	const row = page.locator("#keys tr", { hasText: made.slice(0, 12) });
	check((await row.innerText()).includes("made in the console"), "the key is not listed");
	await row.locator("text=Rotate").click();
	await confirm(page, "creates");
	await page.waitForSelector("#secret");
	const rotated = await page.inputValue("#secret");
	await page.click("#dialog-close");
	await loaded(page);
	const fresh = page.locator("#keys tr", { hasText: rotated.slice(0, 12) });
	await fresh.locator("text=Revoke").click();
	await confirm(page, "revoked");
	await page.waitForFunction((start) => [...document.querySelectorAll("#keys tr")].some((tr) =>
		tr.textContent.includes(start) && tr.textContent.includes("revoked")), rotated.slice(0, 12));
	await close(page);
});

await step("after a rotation of its own key the page uses the new key", async () => {
	const page = await open();
	await enter(page, task.tenants.near);
	await page.locator("#keys tr", { hasText: "used by this page" }).locator("text=Rotate").click();
	await confirm(page, "creates");
	await page.waitForSelector("#secret");
	const fresh = await page.inputValue("#secret");
	await page.click("#dialog-close");
	await loaded(page);
	const own = await page.locator("#keys tr", { hasText: "used by this page" }).innerText();
	check(own.includes(fresh.slice(0, 12)), "another key");
	await close(page);
});

await step("a webhook: create, test, see the delivery, delete", async () => {
	const page = await open();
	await enter(page, task.tenants.paid);
	await page.click("#create-webhook");
	await page.fill("#hook-url", `${new URL(task.console).origin}/acp/healthz`);
	await page.fill("#hook-events", "webhook.test");
	await page.click("#dialog-go");
	await confirm(page, "creates");
	await page.waitForSelector("#secret");
	check((await page.inputValue("#secret")).startsWith("whsec_"), "no secret");
	await page.click("#dialog-close");
	await loaded(page);
	await page.locator("#webhooks button:has-text('Test')").click();
	await page.waitForFunction(() => document.getElementById("status").textContent.startsWith("A test"));
	check((await focused(page)).startsWith("test-"), `the focus is at ${await focused(page)}`);
	await page.waitForFunction(() => document.getElementById("webhooks").textContent.includes("webhook.test"));
	// The request is sent, and /healthz answers it with 405.
	for (let i = 0; i < 50 && !/405/.test(await text(page, "#webhooks")); i++) {
		await page.waitForTimeout(200);
		await page.click("#refresh");
		await loaded(page);
	}
	check((await text(page, "#webhooks")).includes("405"), await text(page, "#webhooks"));
	await axe(page);
	await page.locator("#webhooks button:has-text('Delete')").click();
	await confirm(page, "deletes");
	await page.waitForFunction(() => document.getElementById("webhooks").textContent.includes("No webhooks"));
	await expectFocus(page, "webhooks-title");
	await close(page);
});

await step("the upgrade: from the button to a paid tenant", async () => {
	const page = await open();
	await enter(page, task.tenants.refused);
	await page.click("#upgrade");
	const [checkout] = await Promise.all([page.context().waitForEvent("page"), page.click("#checkout")]);
	page.faults = page.faults.filter((fault) => !fault.startsWith("request to"));
	await checkout.waitForLoadState();
	await checkout.click("button");
	await checkout.waitForLoadState();
	await page.click("#dialog-close");
	for (let i = 0; i < 50 && !/no limit/.test(await text(page, "#verdict")); i++) {
		await page.waitForTimeout(200);
		await page.click("#refresh");
		await loaded(page);
	}
	check((await text(page, "#verdict")).includes("no limit"), await text(page, "#verdict"));
	equal(await page.locator("#upgrade").isVisible(), false, "the upgrade button");
	await close(page);
});

await step("a key with few scopes sees its part and the reason why the rest is missing", async () => {
	const page = await open();
	const before = await scopeDenials(task.tenants.free);
	await enter(page, task.tenants.reader);
	check((await text(page, "#days")).includes("succeeded"), "no chart");
	check((await text(page, "#keys")).includes("manage.iam"), await text(page, "#keys"));
	await page.click("#refresh");
	await loaded(page);
	await close(page);
	const other = await open();
	await enter(other, task.tenants.worker);
	check((await text(other, "#days")).includes("manage.read"), await text(other, "#days"));
	check((await text(other, "#verdict")).includes("free calls"), await text(other, "#verdict"));
	await close(other);
	equal(await scopeDenials(task.tenants.free), before, "refusals caused by the page itself");
});

await step("keyboard only: sign in, open and close a dialog", async () => {
	const page = await open();
	await page.keyboard.press("Tab");
	equal(await page.evaluate(() => document.activeElement.textContent), "Skip to content", "first stop");
	await page.keyboard.press("Tab");
	await page.keyboard.type(task.tenants.free.api_key);
	await page.keyboard.press("Enter");
	await loaded(page);
	equal(await page.evaluate(() => document.activeElement.id), "main", "focus after entering");
	await page.focus("#create-key");
	await page.keyboard.press("Enter");
	equal(await page.evaluate(() => document.activeElement.id), "key-name", "focus in the dialog");
	await page.keyboard.press("Escape");
	await expectFocus(page, "create-key");
	// Makes and revokes a key without a pointer.
	await page.keyboard.press("Enter");
	await page.keyboard.type("by keyboard");
	await page.keyboard.press("Enter");
	await page.waitForSelector("#impact");
	equal(await focused(page), "dialog-go", "focus in the preview");
	await page.keyboard.press("Enter");
	await page.waitForSelector("#secret");
	const made = (await page.inputValue("#secret")).slice(0, 12);
	await page.keyboard.press("Escape");
	await page.waitForFunction((start) => document.getElementById("keys").textContent.includes(start), made);
	await loaded(page);
	await expectFocus(page, "create-key");
	await page.locator("#keys tr", { hasText: made }).locator("text=Revoke").focus();
	await page.keyboard.press("Enter");
	await page.waitForSelector("#impact");
	equal(await focused(page), "dialog-close", "focus in the preview of a dangerous change");
	await page.keyboard.press("Shift+Tab");
	await page.keyboard.press("Enter");
	await page.waitForFunction(() => !document.getElementById("dialog").open);
	await expectFocus(page, "keys-title");
	await page.focus("#refresh");
	await page.keyboard.press("Enter");
	await loaded(page);
	equal(await focused(page), "refresh", "focus after a refresh");
	await close(page);
});

for (const moment of ["while a name is typed", "while the preview is shown"]) {
	await step(`the close event of a dialog, delivered ${moment} in the next dialog, does not change the next one`, async () => {
		const page = await open();
		const sendClose = await holdCloseEvents(page);
		await enter(page, task.tenants.free);
		await page.focus("#create-key");
		for (const key of ["Enter", "Escape", "Enter"])
			await page.keyboard.press(key);
		await page.keyboard.type("by ");
		if (moment.includes("typed"))
			await sendClose();
		await page.keyboard.type("keyboard");
		equal([await focused(page), await page.inputValue("#key-name")], ["key-name", "by keyboard"], "the typed name");
		await page.keyboard.press("Enter");
		await page.waitForSelector("#impact");
		if (moment.includes("shown"))
			await sendClose();
		await page.keyboard.press("Enter");
		await page.waitForSelector("#secret");
		await loaded(page);
		await page.keyboard.press("Escape");
		await expectFocus(page, "create-key");
		equal(await page.locator("#secret").count(), 0, "secrets in the page");
		// The same happens if the browser closes the dialog by itself and the user continues.
		await page.keyboard.press("Enter");
		await page.evaluate(() => document.getElementById("dialog").close());
		await page.keyboard.press("Shift+Tab");
		const place = await focused(page);
		check(place !== "create-key", "Shift+Tab did not move the focus");
		await sendClose();
		equal(await focused(page), place, "focus after the close event");
		equal(await page.locator("#dialog-body *").count(), 0, "elements left in the dialog");
		await close(page);
	});
}

await step("the answer to a cancelled dry run opens nothing", async () => {
	const page = await open();
	await enter(page, task.tenants.free);
	await delay(page, "**/api/manage");
	const ended = (selector) => page.waitForSelector(`${selector}[aria-disabled=false]`, { state: "attached" });
	await page.click("#create-key");
	await page.keyboard.type("left");
	await page.keyboard.press("Enter");
	await page.keyboard.press("Escape");
	await ended("#dialog-go");
	equal([await page.locator("#dialog").isVisible(), await focused(page)], [false, "create-key"], "after Escape");
	const rotate = page.locator("#keys button[id^=rotate-]").first();
	await rotate.press("Enter");
	await page.focus("#create-key");
	await page.keyboard.press("Enter");
	await page.keyboard.type("another");
	await ended(`#${await rotate.getAttribute("id")}`);
	equal([await focused(page), await page.inputValue("#key-name")], ["key-name", "another"], "the dialog opened last");
	await close(page);
});

await step("the focus is kept when the page is redrawn", async () => {
	const page = await open();
	await enter(page, task.tenants.free);
	await keepsFocus(page, "#tenant", "**/api/usage?*");
	await redraw(page, "#upgrade", "**/api/usage?*", (json) => { json.tier = "paid"; });
	equal(await focused(page), "usage-title", "focus after the button is removed");
	await close(page);
});

await step("the preview is complete and readable at both widths", async () => {
	const page = await open();
	await enter(page, task.tenants.paid);
	await page.click("#create-key");
	await page.fill("#key-name", "averylongnamewithoutanyspace".repeat(3));
	for (const box of await page.locator("#dialog-body input[type=checkbox]").all())
		await box.check();
	equal(await page.locator("#dialog-body input:checked").count(), 6, "scopes to choose from");
	for (const part of ["key", "webhook"]) {
		if (part === "webhook") {
			await page.click("#dialog-close");
			await page.click("#create-webhook");
			await page.fill("#hook-url", `https://example.com/${"part".repeat(60)}`);
		}
		await page.click("#dialog-go");
		await page.waitForSelector("#impact");
		for (const width of [1280, WIDTHS.narrow]) {
			await page.setViewportSize({ width, height: 900 });
			await fits(page);
		}
		await page.setViewportSize({ width: WIDTHS.wide, height: 900 });
		const words = await text(page, "#impact");
		check(!/[{}[\]"]|[0-9a-f]{8}-[0-9a-f]{4}-/.test(words), words);
		await page.click("#dialog-close");
		await page.click("#create-key");
	}
	await page.click("#dialog-close");
	await page.locator("#keys button:has-text('Rotate')").first().click();
	await page.waitForSelector("#impact");
	const words = await text(page, "#impact");
	check(!/[{}[\]"]|[0-9a-f]{8}-[0-9a-f]{4}-/.test(words) && words.includes("expires at: 20"), words);
	await close(page);
});

await step("text from others is shown as text, not markup", async () => {
	const page = await open();
	const base = task.console.replace(/console$/, "api/");
	await fetch(base + "manage", { method: "POST", headers: { "X-API-Key": task.tenants.free.api_key,
		"Content-Type": "application/json" }, body: JSON.stringify({ action: "<img src=x onerror=alert(1)>", params: {} }) });
	await enter(page, task.tenants.free);
	equal(await page.locator("#failures img").count(), 0, "images");
	await close(page);
});

await step("many failures do not hide the rest, and belong to the month", async () => {
	const page = await open();
	for (let i = 0; i < 12; i++)
		await fetch(task.console.replace(/console$/, "api/manage"), { method: "POST", headers: {
			"X-API-Key": task.tenants.free.api_key, "Content-Type": "application/json" },
		body: JSON.stringify({ action: "no.such.action" }) });
	await enter(page, task.tenants.free);
	equal(await page.locator("#failures tbody tr:visible").count(), 10, "rows at first");
	await page.click("#failures button:has-text('Show all')");
	check(await page.locator("#failures tbody tr:visible").count() > 12, "rows after the button");
	const months = await page.locator("#period option").allInnerTexts();
	await page.selectOption("#period", months[5]);
	await page.waitForFunction((month) => document.getElementById("verdict").textContent.includes(month), months[5]);
	check((await text(page, "#failures")).includes("No call failed"), await text(page, "#failures"));
	await close(page);
});

// The view of operators -----------------------------------------------------------------------------------------------

await step("the operator link opens the view once", async () => {
	const page = await open({}, `#operator=${task.operator}`);
	await loaded(page);
	equal(await page.evaluate(() => location.hash), "", "the token in the address");
	const rows = await page.locator("#operator-tenants-by-usage ~ div tbody tr").allInnerTexts();
	check(rows[0].includes("paid-agent"), `the first tenant: ${rows[0]}`);
	check(rows.some((row) => row.includes("near-agent") && row.includes("93.0 %")), rows.join(" | "));
	check((await text(page, "#drift")).includes("agree on all"), await text(page, "#drift"));
	const shown = await text(page, "#operator");
	for (const words of ["SCOPE_DENIED", "UPGRADE_REQUIRED", "p99 ms", "Queued for Stripe", "onboarded"])
		check(shown.includes(words), `${words} is not shown`);
	await axe(page);
	await shoot(page, "operator", true);
	await keepsFocus(page, "#operator", "**/operator/data?*");
	const months = await page.locator("#period option").allInnerTexts();
	const late = await delay(page, `**/operator/data?period=${months[1]}`);
	await page.selectOption("#period", months[1]);
	await page.selectOption("#period", months[2]);
	await page.waitForFunction((words) => document.getElementById("operator").textContent.includes(words),
		`In ${months[2]}`);
	await late.arrived;
	await page.waitForLoadState("networkidle");
	check((await text(page, "#operator")).includes(`In ${months[2]}`), "another month than the one chosen");
	await page.click("#leave");
	equal(await page.locator("#operator").isVisible(), false, "the operator's data is visible");
	equal(await focused(page), "key", "focus after the end");
	await close(page);
	const again = await open({}, `#operator=${task.operator}`);
	await again.waitForSelector("#problem:visible");
	check((await text(again, "#problem")).includes("has been used or has expired"), await text(again, "#problem"));
	await enter(again, task.tenants.paid); // without a session, a key still works
	equal(await text(again, "#leave"), "Forget the key", "the button to leave");
	await close(again);
});

await step("without a session operators see nothing", async () => {
	const data = task.console + "/operator/data";
	const ask = async (headers) => (await fetch(data, { headers })).status;
	equal(await ask({}), 401, "without");
	equal(await ask({ Authorization: `Bearer ${"0".repeat(64)}` }), 401, "with a made-up one");
	equal(await ask({ Authorization: `Bearer ${task.operator}` }), 401, "with the link's own token");
	equal(await ask({ Authorization: `Bearer ${task.tenants.paid.api_key}` }), 401, "with a tenant's key");
});

await browser.close();
// It is an error if no step's name contains `only`.
process.exit(failed || !done ? 1 : 0);
