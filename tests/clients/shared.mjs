// What both JavaScript clients share: the questions, the form of the answers, and the two lines of a follow.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

export const asked = JSON.parse(readFileSync(process.argv[2], "utf8"));

// numbers as decimal strings, the rest in small letters: clients checksum addresses
export function plain(value) {
  if (value === null || value === undefined) return null;
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, plain(v)]));
  if (typeof value === "boolean") return value;
  return String(value).toLowerCase();
}

export function answer(found) {
  process.stdout.write(JSON.stringify(plain(found)) + "\n");
}

// the test says when the chain is played to its end: with which block, after how many logs
export async function end(ready) {
  const lines = createInterface({ input: process.stdin });
  ready();
  for await (const line of lines) return JSON.parse(line);
}

export async function until(condition, each = async () => {}) {
  while (!condition()) {
    await each();
    await new Promise((done) => setTimeout(done, 20));
  }
}
