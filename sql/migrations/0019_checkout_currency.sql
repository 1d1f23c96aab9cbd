-- breaking: no
-- 0019 checkout currency: which currency a checkout session was requested with.

SET LOCAL ROLE acp_owner;

ALTER TABLE acp.checkouts ADD COLUMN currency text;
COMMENT ON COLUMN acp.checkouts.currency IS
	'The currency of the installation when it was asked for; null: an older version asked, and named none. Every repetition names the same, because the idempotency key is the same.';
