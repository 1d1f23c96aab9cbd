// Runs the official library as a client of the stand-in. If it completes the story and verifies the signatures, the
// stand-in behaves like Stripe. Environment: STAND_IN_URL, STAND_IN_KEY, STAND_IN_WEBHOOK_SECRET.
import assert from 'node:assert/strict';
import http from 'node:http';
import Stripe from 'stripe';
import { test, end } from './report.mjs';

const url = new URL(process.env.STAND_IN_URL);
const secret = process.env.STAND_IN_WEBHOOK_SECRET;
const settings = { host: url.hostname, port: url.port, protocol: 'http', maxNetworkRetries: 0, telemetry: false };
const stripe = new Stripe(process.env.STAND_IN_KEY, settings);
const tenant = '11111111-1111-4111-8111-111111111111';

async function order(orders) {
  const answer = await fetch(new URL('/_control', url), { method: 'POST', body: JSON.stringify(orders) });
  assert.equal(answer.status, 200, await answer.clone().text());
  return answer.json();
}

async function press(page, card) {
  const answer = await fetch(page, { method: 'POST', redirect: 'manual', body: new URLSearchParams({ card }) });
  assert.equal(answer.status, 303);
  return answer.headers.get('location');
}

async function refused(type, work) {
  await assert.rejects(work, (error) => { assert.equal(error.type, type, error.message); return true; });
}

async function until(what, probe) {
  for (const start = Date.now(); !(await probe());) {
    assert.ok(Date.now() - start < 15000, `${what}: not within 15 s`);
    await new Promise((go) => setTimeout(go, 50));
  }
}

// The received webhooks, and whether the library verifies them.
const events = [], bodies = [];
let broken = 0;
const hooks = http.createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    const body = Buffer.concat(parts);
    if (broken > 0) {
      broken--;
      response.writeHead(500).end();
      return;
    }
    try {
      events.push(stripe.webhooks.constructEvent(body, request.headers['stripe-signature'], secret));
      bodies.push([body, request.headers['stripe-signature']]);
      response.writeHead(200).end();
    } catch (error) {
      events.push(error);
      response.writeHead(400).end();
    }
  });
});
await new Promise((go) => hooks.listen(0, '127.0.0.1', go));
await order({ webhooks: { url: `http://127.0.0.1:${hooks.address().port}/` } });

let customer, method, invoice;

await test('a customer, and a repeat with the same key', async () => {
  const params = { email: 'agent@example.com', name: 'Müller & Söhne', metadata: { tenant_uuid: tenant } };
  customer = await stripe.customers.create(params, { idempotencyKey: 'customer-1' });
  const again = await stripe.customers.create(params, { idempotencyKey: 'customer-1' });
  assert.equal(again.id, customer.id);
  assert.equal(again.lastResponse.headers['idempotent-replayed'], 'true');
  assert.deepEqual((await stripe.customers.retrieve(customer.id)).metadata, { tenant_uuid: tenant });
  assert.equal((await stripe.customers.list({ email: 'agent@example.com' })).data.length, 1);
});

await test('the same key with other parameters', async () => {
  await refused('StripeIdempotencyError', () =>
    stripe.customers.create({ email: 'other@example.com' }, { idempotencyKey: 'customer-1' }));
});

await test('a checkout session in setup mode, completed by a person', async () => {
  const session = await stripe.checkout.sessions.create({
    mode: 'setup', customer: customer.id, currency: 'usd', client_reference_id: tenant,
    metadata: { tenant_uuid: tenant }, success_url: 'https://example.com/done?s={CHECKOUT_SESSION_ID}',
    cancel_url: 'https://example.com/back' });
  assert.equal(session.status, 'open');
  assert.equal(await press(session.url, '4242424242424242'), `https://example.com/done?s=${session.id}`);
  const done = await stripe.checkout.sessions.retrieve(session.id);
  assert.equal(done.status, 'complete');
  const intent = await stripe.setupIntents.retrieve(done.setup_intent);
  assert.equal(intent.status, 'succeeded');
  method = intent.payment_method;
  assert.equal((await stripe.paymentMethods.retrieve(method)).customer, customer.id);
});

await test('an expired session', async () => {
  const session = await stripe.checkout.sessions.create({
    mode: 'setup', currency: 'usd', success_url: 'https://example.com/' });
  assert.equal((await stripe.checkout.sessions.expire(session.id)).status, 'expired');
  await refused('StripeInvalidRequestError', () => stripe.checkout.sessions.expire(session.id));
});

await test('a draft invoice, its items, finalized, paid', async () => {
  const updated = await stripe.customers.update(customer.id, { invoice_settings: { default_payment_method: method } });
  assert.equal(updated.invoice_settings.default_payment_method, method);
  invoice = await stripe.invoices.create({ customer: customer.id, currency: 'usd', auto_advance: false,
    collection_method: 'charge_automatically', metadata: { tenant_uuid: tenant, period: '2026-10' } });
  assert.equal(invoice.status, 'draft');
  for (const amount of [100, 40, -20])
    await stripe.invoiceItems.create({ customer: customer.id, invoice: invoice.id, amount, currency: 'usd',
      description: `${amount} cents` });
  const open = await stripe.invoices.finalizeInvoice(invoice.id, { auto_advance: false });
  assert.deepEqual([open.status, open.total, open.amount_due], ['open', 120, 120]);
  assert.deepEqual(open.lines.data.map((line) => line.amount), [100, 40, -20]);
  const paid = await stripe.invoices.pay(invoice.id);
  assert.deepEqual([paid.status, paid.amount_paid], ['paid', 120]);
  await refused('StripeInvalidRequestError', () => stripe.invoices.pay(invoice.id));
  await refused('StripeInvalidRequestError', () =>
    stripe.invoiceItems.create({ customer: customer.id, invoice: invoice.id, amount: 1, currency: 'usd' }));
});

await test('a declined card', async () => {
  const card = await stripe.paymentMethods.create({ type: 'card', card: { token: 'tok_chargeCustomerFail' } });
  await stripe.paymentMethods.attach(card.id, { customer: customer.id });
  const draft = await stripe.invoices.create({ customer: customer.id, default_payment_method: card.id });
  await stripe.invoiceItems.create({ customer: customer.id, invoice: draft.id, amount: 100, currency: 'usd' });
  await stripe.invoices.finalizeInvoice(draft.id);
  await assert.rejects(() => stripe.invoices.pay(draft.id), (error) => {
    assert.deepEqual([error.type, error.code, error.statusCode], ['StripeCardError', 'card_declined', 402]);
    return true;
  });
  assert.equal((await stripe.invoices.voidInvoice(draft.id)).status, 'void');
});

await test("lists in pages, with the library's pagination", async () => {
  for (let number = 0; number < 12; number++)
    await stripe.invoices.create({ customer: customer.id, metadata: { number } });
  const seen = [];
  for await (const one of stripe.invoices.list({ customer: customer.id, limit: 5 }))
    seen.push(one.id);
  assert.equal(new Set(seen).size, 14);
  assert.equal(seen.at(-1), invoice.id);
  const future = await stripe.invoices.list({ created: { gte: Math.floor(Date.now() / 1000) + 1000 } });
  assert.deepEqual([future.object, future.data, future.has_more], ['list', [], false]);
});

await test('a payment method is detached', async () => {
  assert.equal((await stripe.paymentMethods.detach(method)).customer, null);
  await refused('StripeInvalidRequestError', () => stripe.paymentMethods.detach(method));
});

await test('errors have the types that the library knows', async () => {
  await refused('StripeInvalidRequestError', () => stripe.customers.retrieve('cus_none'));
  await refused('StripeInvalidRequestError', () => stripe.customers.create({ nonsense: 1 }));
  await refused('StripeAuthenticationError', () => new Stripe('sk_test_wrong', settings).customers.list());
  await order({ fail: { path: '/v1/customers', status: 429 } });
  await refused('StripeRateLimitError', () => stripe.customers.list());
  await order({ fail: { path: '/v1/customers', status: 500 } });
  await refused('StripeAPIError', () => stripe.customers.list());
});

await test("the library retries after faults as with Stripe", async () => {
  const patient = new Stripe(process.env.STAND_IN_KEY, { ...settings, maxNetworkRetries: 3 });
  await order({ fail: { path: '/v1/customers', status: 503, times: 2 } });
  const before = (await patient.customers.list({ limit: 100 })).data.length;
  await order({ drop: { path: '/v1/customers', method: 'POST' } });
  await patient.customers.create({ email: 'lost@example.com' });
  assert.equal((await stripe.customers.list({ limit: 100 })).data.length, before + 1);
});

await test('every webhook has a signature that constructEvent accepts', async () => {
  const made = [];
  for await (const event of stripe.events.list({ limit: 100 }))
    made.push(event.id);
  await until('every event was delivered', () => made.every((id) => events.some((event) => event.id === id)));
  assert.deepEqual(events.filter((event) => event instanceof Error).map(String), []);
  for (const wanted of ['customer.created', 'setup_intent.succeeded', 'checkout.session.completed', 'invoice.paid',
    'checkout.session.expired', 'invoice.finalized', 'invoice.payment_failed', 'payment_method.detached'])
    assert.ok(events.some((event) => event.type === wanted), wanted);
  const completed = events.find((event) => event.type === 'checkout.session.completed').data.object;
  assert.deepEqual([completed.client_reference_id, completed.metadata.tenant_uuid], [tenant, tenant]);
});

await test('a changed body, another secret and an old timestamp are refused', async () => {
  const [body, header] = bodies[0];
  const changed = Buffer.from(body.toString().replace('"livemode": false', '"livemode": true'));
  assert.notDeepEqual(changed, body);
  assert.throws(() => stripe.webhooks.constructEvent(changed, header, secret));
  assert.throws(() => stripe.webhooks.constructEvent(body, header, 'whsec_other'));
  const errors = () => events.filter((event) => event instanceof Error).length;
  await order({ webhooks: { skew: -400, send: [events[0].id] } });
  await until('it was refused', () => errors() > 0);
  await order({ reset: true });
});

await test('both secrets sign while a secret is being replaced', async () => {
  await order({ webhooks: { secret: `whsec_new ${secret}` } });
  const before = events.length;
  await order({ webhooks: { send: [JSON.parse(bodies[1][0]).id] } });
  await until('it arrived', () => events.slice(before).some((event) => !(event instanceof Error)));
  await order({ webhooks: { secret } });
});

await test('a webhook answered with 500 is sent again', async () => {
  broken = 2;
  const made = await stripe.customers.create({ email: 'again@example.com' });
  await until('it arrived', () => events.some((event) => event.type === 'customer.created' &&
    event.data.object.id === made.id));
  assert.equal(broken, 0);
});

await test('webhooks arrive twice and in another order on request', async () => {
  await order({ webhooks: { hold: true, duplicate: 1, shuffle: true } });
  const ids = [];
  for (let number = 0; number < 8; number++)
    ids.push((await stripe.customers.create({ email: `n${number}@example.com` })).id);
  const before = events.length;
  await order({ webhooks: { release: true } });
  await until('all came', () => events.length >= before + 16);
  const came = events.slice(before).map((event) => event.data.object.id);
  assert.deepEqual([...came].sort(), [...ids, ...ids].sort());
  assert.notDeepEqual([...new Set(came)], ids);
  await order({ reset: true });
});

await test('keys are forgotten after a day', async () => {
  await order({ clock: { advance: 86401 } });
  const fresh = await stripe.customers.create({ email: 'other@example.com' }, { idempotencyKey: 'customer-1' });
  assert.notEqual(fresh.id, customer.id);
});

hooks.close();
end('stripe-library-story');
