-- breaking: no
-- 0009 outcomes: a write that comes without an idempotency key is stored under one of the program's own, and a call whose
-- commit was not answered is resolved (acp.settle, acp.settle_doubt). The functions change; the tables do not. The number
-- tells a program of this version that it must not start on the functions before.

SET LOCAL ROLE acp_owner;

COMMENT ON TABLE acp.idempotency IS 'What was answered to a call under an idempotency key, the client''s or one that the program gave it; kept for 24 hours.';
COMMENT ON COLUMN acp.idempotency.key IS 'The key; for onboarding its HMAC, because there it leads to a credential.';
