// Takes the picture of tests/console/run --picture. Standard input: {console, key, now, file}.
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const task = JSON.parse(readFileSync(0, "utf8"));
const WIDTH = 1280;

const browser = await chromium.launch({
	executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage"],
});
const context = await browser.newContext({ viewport: { width: WIDTH, height: 900 }, reducedMotion: "reduce" });
const page = await context.newPage();
await page.clock.setFixedTime(new Date(task.now));
await page.goto(task.console);
await page.fill("#key", task.key);
await page.click("#enter button");
await page.waitForFunction(() => document.getElementById("status").textContent.startsWith("As of"));
// From the top to the end of the table of actions: the part that a tenant looks at first.
const table = await page.locator("section", { has: page.locator("#by-action") }).boundingBox();
const height = Math.ceil(table.y + table.height) + 12;
await page.setViewportSize({ width: WIDTH, height });
await page.evaluate(() => {
	document.activeElement.blur();
	scrollTo(0, 0);
});
await page.screenshot({ path: task.file });
await browser.close();
