-- breaking: no
-- 0007 console: links that open the operator's view once, and the sessions they open.

SET LOCAL ROLE acp_owner;

CREATE TABLE acp.console_access (
	hash       bytea PRIMARY KEY CHECK (length(hash) = 32),
	kind       text NOT NULL CHECK (kind IN ('link', 'session')),
	created_at timestamptz NOT NULL,
	expires_at timestamptz NOT NULL
);
COMMENT ON TABLE acp.console_access IS
	'Who may see the operator''s view of the console: links, each good for one session, and sessions. Only hashes are stored.';
COMMENT ON COLUMN acp.console_access.hash IS 'SHA-256 of the random token.';
COMMENT ON COLUMN acp.console_access.kind IS 'link: opens one session, and is gone then; session: reads.';
COMMENT ON COLUMN acp.console_access.created_at IS 'When it was made.';
COMMENT ON COLUMN acp.console_access.expires_at IS 'From then on it is worth nothing; a later link removes it.';
