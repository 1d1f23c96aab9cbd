// Repeats the requests of the executor (a list in the file of the first argument) with the official library: the types of
// its declarations must accept every parameter, and it must send the same form.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { test, end } from './report.mjs';

const requests = JSON.parse(fs.readFileSync(process.argv[2], 'utf8')).requests;
const folder = process.argv[3];
const version = process.argv[4];

// method and path of the API -> method of the library
const METHODS = [
  ['POST', /^\/v1\/customers$/, 'customers.create'], ['GET', /^\/v1\/customers$/, 'customers.list'],
  ['POST', /^\/v1\/customers\/(\w+)$/, 'customers.update'],
  ['POST', /^\/v1\/checkout\/sessions$/, 'checkout.sessions.create'],
  ['GET', /^\/v1\/setup_intents\/(\w+)$/, 'setupIntents.retrieve'],
  ['POST', /^\/v1\/invoices$/, 'invoices.create'], ['GET', /^\/v1\/invoices$/, 'invoices.list'],
  ['GET', /^\/v1\/invoices\/(\w+)$/, 'invoices.retrieve'],
  ['POST', /^\/v1\/invoices\/(\w+)\/finalize$/, 'invoices.finalizeInvoice'],
  ['POST', /^\/v1\/invoices\/(\w+)\/pay$/, 'invoices.pay'],
  ['POST', /^\/v1\/invoiceitems$/, 'invoiceItems.create'], ['GET', /^\/v1\/invoiceitems$/, 'invoiceItems.list'],
];

// Converts form text to the object for the library. Metadata values stay strings.
function object(form) {
  const out = {};
  for (const [name, text] of new URLSearchParams(form)) {
    const parts = name.match(/[^[\]]+/g);
    let at = out;
    for (const part of parts.slice(0, -1))
      at = at[part] ??= {};
    const plain = parts.includes('metadata') || !/^(true|false|-?\d+)$/.test(text);
    at[parts.at(-1)] = plain ? text : JSON.parse(text);
  }
  return out;
}

const pairs = (form) => [...new URLSearchParams(form)].map((pair) => pair.join('=')).sort();

const calls = requests.map((request) => {
  for (const [method, pattern, name] of METHODS) {
    const found = method === request.method && request.path.match(pattern);
    if (found)
      return { ...request, name, id: found[1] };
  }
  return request;
});

await test('the library can make every request', () => {
  assert.deepEqual(calls.filter((call) => !call.name).map((call) => `${call.method} ${call.path}`), []);
  assert.ok(calls.length > 15, `only ${calls.length} requests were recorded`);
  for (const [, , name] of METHODS)
    assert.ok(calls.some((call) => call.name === name), `${name} was not called`);
});

await test('tests/stripe/event_types.txt has every type of event', () => {
  const types = fs.readFileSync(path.join(folder, 'node_modules/stripe/esm/resources/WebhookEndpoints.d.ts'), 'utf8');
  const known = types.match(/type EnabledEvent = (.*);/)[1].split(' | ').map((type) => type.slice(1, -1)).filter((type) => type !== '*');
  const listed = fs.readFileSync(process.argv[5], 'utf8').split('\n').filter((line) => line && !line.startsWith('#'));
  assert.ok(known.length > 200, `only ${known.length} types were found`);
  assert.deepEqual(listed, known.sort());
});

await test('every request names the version of the library', () => {
  assert.deepEqual([...new Set(calls.map((call) => call.version))], [version]);
});

const source = ["import Stripe from 'stripe';", 'export default function calls(stripe: Stripe) {', '  return ['];
for (const call of calls.filter((one) => one.name)) {
  const form = object(call.params);
  const words = [...(call.id ? [JSON.stringify(call.id)] : []),
    ...(Object.keys(form).length ? [JSON.stringify(form)] : [])];
  source.push(`    () => stripe.${call.name}(${words.join(', ')}),`);
}
source.push('  ];', '}', "// The pinned version is this library's.",
  'export const make = (host: string, port: number) => new Stripe("sk_test_types", { host, port, protocol: "http",',
  `  apiVersion: '${version}', maxNetworkRetries: 0, telemetry: false });`, '');
const file = path.join(folder, 'calls.ts');
fs.writeFileSync(file, source.join('\n'));

const TSC = ['--strict', '--skipLibCheck', '--target', 'es2022', '--module', 'nodenext', '--moduleResolution',
  'nodenext', '--types', 'node'];
const compile = (name) => execFileSync(path.join(folder, 'node_modules/.bin/tsc'), [...TSC, name],
  { cwd: folder, encoding: 'utf8', stdio: 'pipe' });

await test("the library's types accept every parameter", () => {
  try {
    compile(file);
  } catch (error) {
    throw new Error(error.stdout || String(error));
  }
});

await test('the types reject an unknown parameter', () => {
  const wrong = path.join(folder, 'wrong.ts');
  fs.writeFileSync(wrong, source.join('\n').replace('"auto_advance"', '"auto_advanced"'));
  assert.throws(() => compile(wrong), (error) => error.stdout.includes('auto_advanced'));
});

// A server that records the requests of the library.
const sent = [];
const server = http.createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    const url = new URL(request.url, 'http://host');
    const form = request.method === 'POST' ? Buffer.concat(parts).toString() : url.search.slice(1);
    sent.push({ method: request.method, path: url.pathname, pairs: pairs(form) });
    response.writeHead(200, { 'Content-Type': 'application/json' }).end('{"id":"x","object":"list","data":[]}');
  });
});
await new Promise((go) => server.listen(0, '127.0.0.1', go));

await test('the library sends the same method, path and form', async () => {
  const made = await import(pathToFileURL(path.join(folder, 'calls.js')));
  for (const call of made.default(made.make('127.0.0.1', server.address().port)))
    await call();
  assert.equal(sent.length, calls.length);
  calls.forEach((call, index) => assert.deepEqual(sent[index],
    { method: call.method, path: call.path, pairs: pairs(call.params) }));
});

server.close();
end('stripe-library-types');
