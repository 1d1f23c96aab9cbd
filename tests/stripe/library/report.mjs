// Counts and prints tests; the last line sums up the suite.
let passed = 0, failed = 0;

export async function test(name, work) {
  try {
    await work();
    passed++;
    console.log(`ok ${name}`);
  } catch (error) {
    failed++;
    console.log(`FAIL ${name}\n     ${String(error.message || error).split('\n').slice(0, 8).join('\n     ')}`);
  }
}

export function end(suite) {
  console.log(`suite ${suite}: ${passed} passed, ${failed} failed, 0 skipped`);
  process.exit(failed ? 1 : 0);
}
