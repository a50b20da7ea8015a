// A Chromium over one page: reads a command a line from standard input, writes its result as a line of JSON.
// node browser.mjs CHROMIUM
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import puppeteer from "puppeteer-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await puppeteer.launch({
  executablePath: process.argv[2],
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"],
});
const page = await browser.newPage();
const errors = [];
const requests = [];
page.on("console", (message) => {
  if (["error", "warn"].includes(message.type())) errors.push(message.text());
});
page.on("pageerror", (error) => errors.push(String(error)));
page.on("request", (request) => requests.push(request.url()));

const commands = {
  async open({ url, width, height, dark }) {
    await page.setViewport({ width, height, deviceScaleFactor: 1 });
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }]);
    await page.goto(url, { waitUntil: "load" });
  },
  async wait({ until, seconds }) {
    await page.waitForFunction(until, { timeout: seconds * 1000, polling: 100 });
  },
  evaluate: ({ text }) => page.evaluate(text),
  async screenshot({ path }) {
    await page.screenshot({ path, fullPage: true });
  },
  async axe() {
    await page.evaluate(axe);
    const found = await page.evaluate(() => axe.run());
    return found.violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.map((one) => one.html.slice(0, 200)) }));
  },
  seen: () => ({ errors, origins: [...new Set(requests.filter((url) => !url.startsWith("data:")).map((url) => new URL(url).origin))] }),
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  try {
    console.log(JSON.stringify({ result: (await commands[command.do](command)) ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
await browser.close();
