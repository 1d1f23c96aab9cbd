-- breaking: no
-- 0017 e-mail addresses: an index that finds the tenants with an address, for the setting onboard_per_email.

SET LOCAL ROLE acp_owner;

CREATE INDEX tenants_email ON acp.tenants (lower(billing_email));
