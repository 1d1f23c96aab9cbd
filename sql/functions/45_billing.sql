-- Billing: an invoice is a pure function of audit rows (billable, tier paid), price versions and a UTC month.
--
-- The first run of a month closes it: the run records the ends of the audit chains, the prices and the minimum
-- (acp.billing_closings, acp.billing_cuts). A row belongs to the first closed month that ends after its ts and whose
-- cut includes it. A late row is therefore billed with the next month, and computing a closed month again gives the
-- same result. All money in these functions is numeric.
--
-- Lock order: the lock acp.billing, then the lock acp.prices, then the rows of one tenant after another.

-- Prices -------------------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION acp.price_billed(p acp.prices) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN EXISTS (SELECT FROM acp.billing_closings c WHERE c.price_version >= p.version AND p.valid_from < acp.period_end(c.period))
		OR EXISTS (SELECT FROM acp.invoice_lines l WHERE l.price_version = p.version);
END
$$;
COMMENT ON FUNCTION acp.price_billed(acp.prices) IS
	'May an invoice of a closed month depend on this price? Not if it became valid after the end of every month that was closed with it.';

CREATE OR REPLACE FUNCTION acp.prices_guard() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- Versions become visible in order, and closing a month waits for prices being added.
	PERFORM pg_advisory_xact_lock(hashtext('acp.prices'));
	IF TG_OP = 'UPDATE' OR (TG_OP = 'DELETE' AND acp.price_billed(OLD)) THEN
		RAISE EXCEPTION 'invoices may depend on this price, so it cannot be changed; add a price that is valid from a later moment'
			USING ERRCODE = 'integrity_constraint_violation';
	END IF;
	IF TG_OP = 'DELETE' THEN
		RETURN OLD;
	END IF;
	-- A closed month knows its prices by the highest version of that time, so no version up to it is given again.
	NEW.version := greatest((SELECT max(p.version) FROM acp.prices p), (SELECT max(c.price_version) FROM acp.billing_closings c), 0) + 1;
	NEW.created_at := acp.now();
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION acp.prices_guard() IS
	'Trigger: numbers prices in commit order and rejects changes to prices that a closed month may have used.';

CREATE OR REPLACE FUNCTION acp.prices_last() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM acp.prices p WHERE p.unit = 'call' AND p.action_pattern = '*') THEN
		RAISE EXCEPTION 'every call needs a price: the last price per call of all actions cannot be removed'
			USING ERRCODE = 'integrity_constraint_violation';
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION acp.prices_last() IS 'Trigger: at the end of a transaction there is a price for unit call and pattern *.';

-- Only where they are missing: making a trigger stops everyone who reads prices.
DO $triggers$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'acp.prices'::regclass AND tgname = 'prices_guard') THEN
		CREATE TRIGGER prices_guard BEFORE INSERT OR UPDATE OR DELETE ON acp.prices FOR EACH ROW EXECUTE FUNCTION acp.prices_guard();
	END IF;
	IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'acp.prices'::regclass AND tgname = 'prices_last') THEN
		CREATE CONSTRAINT TRIGGER prices_last AFTER DELETE ON acp.prices DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION acp.prices_last();
	END IF;
END
$triggers$;

CREATE OR REPLACE FUNCTION acp.currency() RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN coalesce((SELECT c.currency FROM acp.billing_closings c ORDER BY c.period DESC LIMIT 1),
		(SELECT p.currency FROM acp.prices p WHERE p.unit = 'call' AND p.action_pattern = '*' ORDER BY p.valid_from, p.version LIMIT 1), 'USD');
END
$$;
COMMENT ON FUNCTION acp.currency() IS
	'The currency of this installation: that of the last closed month, else of the first price per call of all actions. Prices in another currency can only be left from older versions.';

CREATE OR REPLACE FUNCTION acp.price_check(p_unit text, p_pattern text, p_amount numeric, p_currency text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF p_amount IN ('NaN', 'Infinity') OR p_amount IS NULL THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'the amount must be a number', '/amount');
	ELSIF p_amount < 0 OR p_amount >= 1000000000 OR scale(trim_scale(p_amount)) > 12 THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'the amount must be from 0 to 999999999, with at most 12 decimals', '/amount');
	ELSIF coalesce(p_currency, '') !~ '^[A-Z]{3}$' THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'the currency must be an ISO 4217 code in capitals, for example USD', '/currency');
	ELSIF p_pattern !~ '^([a-z0-9_.]+\*?|\*)$' THEN -- such a price would match nothing
		PERFORM acp.fail('VALIDATION_ERROR', 'the pattern must be the name of an action, or a prefix followed by *', '/action_pattern');
	END IF;
END
$$;
COMMENT ON FUNCTION acp.price_check(text, text, numeric, text) IS 'Refuses a price whose amount, currency or pattern is not one.';

CREATE OR REPLACE FUNCTION acp.price_add(p_unit text, p_pattern text, p_amount numeric, p_currency text, p_from timestamptz) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	latest acp.billing_closings;
	since  CONSTANT timestamptz := coalesce(p_from, acp.now());
	added  bigint;
BEGIN
	-- Two first prices in different currencies wait for each other here.
	PERFORM pg_advisory_xact_lock(hashtext('acp.prices'));
	SELECT * INTO latest FROM acp.billing_closings c ORDER BY c.period DESC LIMIT 1;
	IF since < acp.period_end(latest.period) THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('%s is already billed; valid_from must be %s or later', to_char(latest.period, 'YYYY-MM'),
			acp.rfc3339(acp.period_end(latest.period))), '/valid_from');
	ELSIF NOT since BETWEEN '2000-01-01 00:00:00+00' AND '9999-12-31 23:59:59+00' THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'valid_from must be a moment from 2000 to 9999', '/valid_from');
	ELSIF p_currency <> latest.currency THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('this installation has billed in %s, so the currency cannot change; give the price in %s',
			latest.currency, latest.currency), '/currency');
	ELSIF p_currency <> acp.currency() THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('the prices of this installation are in %s; give the price in %s, or replace all prices with: '
			'acpctl price currency %s --amount AMOUNT', acp.currency(), acp.currency(), p_currency), '/currency');
	END IF;
	PERFORM acp.price_check(p_unit, p_pattern, p_amount, p_currency);
	INSERT INTO acp.prices (unit, action_pattern, unit_amount, currency, valid_from)
	VALUES (p_unit, p_pattern, p_amount, p_currency, since) ON CONFLICT DO NOTHING RETURNING version INTO added;
	IF added IS NULL THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'a price for this unit, pattern and valid_from exists already', '/valid_from');
	END IF;
	RETURN added;
END
$$;
COMMENT ON FUNCTION acp.price_add(text, text, numeric, text, timestamptz) IS
	'Adds a price that is valid from p_from (null: now), in the currency of the installation. Returns its version. Billed months keep their prices.';

CREATE OR REPLACE FUNCTION acp.price_remove(p_version bigint) RETURNS acp.prices
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	p acp.prices;
BEGIN
	PERFORM pg_advisory_xact_lock(hashtext('acp.prices'));
	SELECT * INTO p FROM acp.prices x WHERE x.version = p_version;
	IF NOT FOUND THEN
		PERFORM acp.fail('NOT_FOUND', format('no price has the version %s; acpctl price list shows them', p_version), '/version');
	ELSIF acp.price_billed(p) THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('price %s applies to a month that is billed, so it cannot be removed; a newer price replaces it from a '
			'later moment on', p_version), '/version');
	ELSIF p.unit = 'call' AND p.action_pattern = '*' AND NOT EXISTS (SELECT FROM acp.prices x
		WHERE x.unit = 'call' AND x.action_pattern = '*' AND x.version <> p_version AND x.valid_from <= greatest(p.valid_from, acp.now())) THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('price %s is the last price per call of all actions in force, and every call needs a price; add another '
			'one first (acpctl price add)', p_version), '/version');
	END IF;
	DELETE FROM acp.prices x WHERE x.version = p_version;
	RETURN p;
END
$$;
COMMENT ON FUNCTION acp.price_remove(bigint) IS
	'Removes a price that no closed month depends on, and returns it. The last price per call of all actions that is in force stays.';

CREATE OR REPLACE FUNCTION acp.price_currency(p_currency text, p_amount numeric) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	latest acp.billing_closings;
	credit acp.billing_credits;
	added  bigint;
BEGIN
	PERFORM pg_advisory_xact_lock(hashtext('acp.prices'));
	SELECT * INTO latest FROM acp.billing_closings c ORDER BY c.period DESC LIMIT 1;
	SELECT * INTO credit FROM acp.billing_credits k WHERE k.currency <> p_currency ORDER BY k.credit_id LIMIT 1;
	PERFORM acp.price_check('call', '*', p_amount, p_currency);
	IF latest.currency IS NOT NULL THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('%s is billed in %s, so the currency of this installation cannot change',
			to_char(latest.period, 'YYYY-MM'), latest.currency), '/currency');
	ELSIF credit.credit_id IS NOT NULL THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('credit %s of tenant %s is in %s, so the currency of this installation cannot change',
			credit.credit_id, credit.tenant_id, credit.currency), '/currency');
	END IF;
	DELETE FROM acp.prices;
	INSERT INTO acp.prices (unit, action_pattern, unit_amount, currency, valid_from)
	VALUES ('call', '*', p_amount, p_currency, '2000-01-01 00:00:00+00') RETURNING version INTO added;
	RETURN added;
END
$$;
COMMENT ON FUNCTION acp.price_currency(text, numeric) IS
	'Chooses the currency of an installation that has billed nothing: replaces all prices by one per call of all actions, valid from the beginning. Returns its version.';

CREATE OR REPLACE FUNCTION acp.price_strays() RETURNS SETOF acp.prices
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY SELECT * FROM acp.prices p WHERE p.currency <> acp.currency() ORDER BY p.version;
END
$$;
COMMENT ON FUNCTION acp.price_strays() IS
	'Prices in another currency than the installation''s, which older versions accepted: no month in which they apply can be billed.';

CREATE OR REPLACE FUNCTION acp.billing_price(p_unit text, p_action text, p_ts timestamptz, p_version bigint) RETURNS acp.prices
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	found acp.prices;
BEGIN
	-- Before the first price that matches, that price applies: no call is without a price because of its moment.
	SELECT * INTO found FROM acp.prices p
	WHERE p.unit IN (p_unit, 'call') AND (p_version IS NULL OR p.version <= p_version)
	  AND (p.action_pattern = p_action OR (right(p.action_pattern, 1) = '*'
	       AND starts_with(p_action, left(p.action_pattern, -1))))
	ORDER BY p.valid_from <= p_ts DESC, CASE WHEN p.valid_from > p_ts THEN p.valid_from END,
		p.unit = p_unit DESC, p.action_pattern = p_action DESC, length(p.action_pattern) DESC, p.valid_from DESC
	LIMIT 1;
	RETURN found;
END
$$;
COMMENT ON FUNCTION acp.billing_price(text, text, timestamptz, bigint) IS
	'Finds the price of an action at a moment, among the prices up to version p_version (null: all). A price for its unit comes before a price per call, then the longest pattern, then the newest price. If none of them is valid yet, the earliest one applies.';

CREATE OR REPLACE FUNCTION acp.currency_unit(p_currency text, OUT per_major integer, OUT step integer)
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	per_major := CASE
		WHEN p_currency IN ('BIF', 'CLP', 'DJF', 'GNF', 'JPY', 'KMF', 'KRW', 'MGA', 'PYG', 'RWF', 'VND', 'VUV', 'XAF', 'XOF', 'XPF') THEN 1
		WHEN p_currency IN ('BHD', 'JOD', 'KWD', 'OMR', 'TND') THEN 1000
		ELSE 100 END;
	-- Stripe takes whole crowns and shillings as hundredths, and hundredths of a dinar as thousandths.
	step := CASE WHEN per_major = 1000 THEN 10 WHEN p_currency IN ('ISK', 'UGX') THEN 100 ELSE 1 END;
END
$$;
COMMENT ON FUNCTION acp.currency_unit(text) IS
	'Minor units per major unit of a currency at Stripe (per_major); every amount in minor units is a multiple of step.';

CREATE OR REPLACE FUNCTION acp.money_minor(p_amount numeric, p_currency text) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	u     CONSTANT record := acp.currency_unit(p_currency);
	minor CONSTANT numeric := floor(p_amount * u.per_major / u.step + 0.5) * u.step;
BEGIN
	-- Larger integers are not exact in JSON.
	IF abs(minor) > 9007199254740991 THEN
		RAISE EXCEPTION USING ERRCODE = 'ACP01', HINT = 'VALIDATION_ERROR',
			MESSAGE = format('%s %s is too large to be charged', trim_scale(p_amount), p_currency);
	END IF;
	RETURN minor;
END
$$;
COMMENT ON FUNCTION acp.money_minor(numeric, text) IS 'Converts an amount to minor units of its currency, rounded half up. Refuses an amount of more than 2^53 - 1 minor units.';

CREATE OR REPLACE FUNCTION acp.money_major(p_minor bigint, p_currency text) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN trim_scale(p_minor::numeric / (acp.currency_unit(p_currency)).per_major); END $$;
COMMENT ON FUNCTION acp.money_major(bigint, text) IS 'Converts minor units to the major unit of the currency.';

CREATE OR REPLACE FUNCTION acp.charge_max(p_currency text) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN CASE p_currency WHEN 'IDR' THEN 999999999999 WHEN 'INR' THEN 999999999 ELSE 99999999 END; END $$;
COMMENT ON FUNCTION acp.charge_max(text) IS
	'The most that Stripe charges at once, in minor units (docs.stripe.com/currencies): eight digits, nine in INR, twelve in IDR.';

CREATE OR REPLACE FUNCTION acp.invoice_minimum(p_currency text, p_minimum numeric) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	u CONSTANT record := acp.currency_unit(p_currency);
	-- Stripe's smallest charge (docs.stripe.com/currencies). Stripe converts other currencies to that of the account.
	smallest CONSTANT numeric := CASE
		WHEN p_currency IN ('USD', 'EUR', 'CHF', 'AUD', 'CAD', 'NZD', 'SGD', 'BRL', 'INR') THEN 0.50
		WHEN p_currency = 'GBP' THEN 0.30
		WHEN p_currency = 'BGN' THEN 1
		WHEN p_currency IN ('AED', 'MYR', 'PLN', 'RON') THEN 2
		WHEN p_currency = 'DKK' THEN 2.50
		WHEN p_currency IN ('NOK', 'SEK') THEN 3
		WHEN p_currency = 'HKD' THEN 4
		WHEN p_currency IN ('MXN', 'THB') THEN 10
		WHEN p_currency = 'CZK' THEN 15
		WHEN p_currency = 'JPY' THEN 50
		WHEN p_currency = 'HUF' THEN 175
		WHEN u.per_major = 1 THEN 1000
		ELSE 1 END;
BEGIN
	RETURN trim_scale(ceil(greatest(p_minimum, smallest) * u.per_major / u.step) * u.step / u.per_major);
END
$$;
COMMENT ON FUNCTION acp.invoice_minimum(text, numeric) IS
	'The smallest amount of an invoice, in the major unit. p_minimum: the setting invoice_minimum; null: the smallest charge of Stripe for the currency, which also replaces a smaller setting. Rounded up to what can be charged. A currency that Stripe''s list does not name: 1, or 1000 if it has no minor unit.';

-- Text of an invoice -------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION acp.invoice_line_text(l acp.invoice_lines) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- concat_ws omits null members.
	RETURN '{' || concat_ws(',', '"action":' || to_json(l.action)::text, '"amount":"' || trim_scale(l.amount) || '"',
		'"amount_minor":' || l.amount_minor, '"billing_unit":"' || l.billing_unit || '"', '"calls":' || l.calls,
		'"credit_id":' || l.credit_id, '"first":"' || l.first_chain || ':' || l.first_seq || '"',
		'"first_ts":"' || acp.audit_instant(l.first_ts) || '"', '"from":"' || acp.audit_instant(l.from_ts) || '"', '"kind":"' || l.kind || '"',
		'"last":"' || l.last_chain || ':' || l.last_seq || '"', '"last_ts":"' || acp.audit_instant(l.last_ts) || '"', '"line":' || l.line,
		'"period":"' || to_char(l.source_period, 'YYYY-MM') || '"', '"price_pattern":' || to_json(l.price_pattern)::text,
		'"price_version":' || l.price_version, '"quantity":' || l.quantity, '"reason":' || to_json(l.reason)::text,
		'"to":"' || acp.audit_instant(l.to_ts) || '"', '"unit":"' || l.unit || '"', '"unit_amount":"' || trim_scale(l.unit_amount) || '"') || '}';
END
$$;
COMMENT ON FUNCTION acp.invoice_line_text(acp.invoice_lines) IS 'Formats a line for acp.invoice_text().';

CREATE OR REPLACE FUNCTION acp.invoice_text(b acp.billing_periods, p_lines acp.invoice_lines[]) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN concat('{"amount":', b.amount, ',"carried_in":"', trim_scale(b.carried_in), '","carried_out":"', trim_scale(b.carried_out),
		'","currency":"', b.currency, '","lines":[',
		(SELECT string_agg(acp.invoice_line_text(l), ',' ORDER BY l.line) FROM unnest(p_lines) l),
		'],"period":"', to_char(b.period, 'YYYY-MM'), '","period_end":"', acp.audit_instant(acp.period_end(b.period)),
		'","period_start":"', acp.audit_instant(acp.period_start(b.period)), '","tenant_uuid":"', b.tenant_id,
		'","total":"', trim_scale(b.total), '"}');
END
$$;
COMMENT ON FUNCTION acp.invoice_text(acp.billing_periods, acp.invoice_lines[]) IS
	'Text of an invoice in RFC 8785 form; its SHA-256 is the hash of the invoice. Amounts are decimal text in the major unit, except amount and amount_minor. The text omits members that change later (status, payment).';

CREATE OR REPLACE FUNCTION acp.invoice_stored_lines(p_tenant uuid, p_period date) RETURNS acp.invoice_lines[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN ARRAY(SELECT l FROM acp.invoice_lines l WHERE l.tenant_id = p_tenant AND l.period = p_period ORDER BY l.line);
END
$$;
COMMENT ON FUNCTION acp.invoice_stored_lines(uuid, date) IS 'The stored lines of an invoice, in order.';

CREATE OR REPLACE FUNCTION acp.invoice_line_title(l acp.invoice_lines, p_currency text) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN left(CASE l.kind
		WHEN 'usage' THEN format('%s, %s: %s %s at %s %s', l.action, to_char(l.source_period, 'YYYY-MM'), l.quantity,
			CASE l.unit WHEN 'sec' THEN 'second' ELSE l.unit END || CASE WHEN l.quantity = 1 THEN '' ELSE 's' END, trim_scale(l.unit_amount), p_currency)
		WHEN 'carry' THEN 'Carried over from ' || to_char(l.source_period, 'YYYY-MM')
		WHEN 'adjustment' THEN 'Adjustment: ' || l.reason
		ELSE 'Credit: ' || l.reason END, 500);
END
$$;
COMMENT ON FUNCTION acp.invoice_line_title(acp.invoice_lines, text) IS 'Description of a line for the customer.';

-- Computing ----------------------------------------------------------------------------------------------------------

-- Signatures up to schema version 7.
DROP FUNCTION IF EXISTS acp.billing_compute(uuid[], acp.billing_closings, boolean), acp.billing_usage(uuid[], acp.billing_closings, boolean);

CREATE OR REPLACE FUNCTION acp.billing_usage(p_tenants uuid[], c acp.billing_closings, p_closed boolean, p_counted boolean)
RETURNS SETOF acp.invoice_lines
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	closed     CONSTANT date := (SELECT max(x.period) FROM acp.billing_closings x WHERE x.period < c.period);
	closed_end CONSTANT timestamptz := coalesce(acp.period_end(closed), '-infinity');
	month_start CONSTANT timestamptz := acp.period_start(c.period);
	month_end  CONSTANT timestamptz := acp.period_end(c.period);
	-- Between two of these moments no price starts or stops applying.
	bounds     CONSTANT timestamptz[] := '{-infinity}'::timestamptz[] || ARRAY(SELECT DISTINCT p.valid_from FROM acp.prices p ORDER BY 1);
BEGIN
	RETURN QUERY
	WITH t AS (
		SELECT DISTINCT x AS tenant_id FROM unnest(p_tenants) x
	), counted AS (
		-- Read only those earlier months that have more counted calls than invoice lines cover.
		SELECT u.tenant_id, date_trunc('month', u.day::timestamp)::date AS month, sum(u.calls) AS calls
		FROM t JOIN acp.usage_counters u USING (tenant_id)
		WHERE u.billable AND u.tier = 'paid' AND u.day < c.period AND (p_closed OR u.day < closed + interval '1 month')
		GROUP BY 1, 2
	), charged AS (
		SELECT l.tenant_id, l.source_period AS month, sum(l.calls) AS calls FROM t JOIN acp.invoice_lines l USING (tenant_id)
		WHERE l.kind = 'usage' AND l.source_period < c.period AND l.period < c.period
		GROUP BY 1, 2
	), late AS MATERIALIZED (
		SELECT k.tenant_id, k.month, acp.period_start(k.month) AS first, acp.period_end(k.month) AS past
		FROM counted k LEFT JOIN charged h USING (tenant_id, month) WHERE k.calls > coalesce(h.calls, 0)
	), cuts AS MATERIALIZED (
		SELECT k.chain_id, k.upto, coalesce(b.chain_seq, 0) AS billed
		FROM (SELECT x.chain_id, x.chain_seq AS upto FROM acp.billing_cuts x WHERE p_closed AND x.period = c.period
			UNION ALL SELECT x.chain_id, x.seq FROM acp.audit_chains x WHERE NOT p_closed) k
		LEFT JOIN acp.billing_cuts b ON b.chain_id = k.chain_id AND b.period = closed
	), changing AS MATERIALIZED (
		-- Days on which a price changes. On all other days each call costs the same as the first one.
		SELECT DISTINCT (x AT TIME ZONE 'UTC')::date AS day FROM unnest(bounds) x
		WHERE p_counted AND x > month_start AND x < month_end AND x <> date_trunc('day', x, 'UTC')
	), passing AS (
		SELECT u.tenant_id, u.day, u.action, u.billing_unit, u.calls, u.charged_calls, u.quantity, u.day::timestamp AT TIME ZONE 'UTC' AS ts
		FROM (SELECT t.tenant_id, x.* FROM t, acp.charged_of(t.tenant_id, c.period) x WHERE p_counted) u
		WHERE u.billable AND u.tier = 'paid' AND u.day NOT IN (SELECT day FROM changing)
	), found AS (
		-- Chain and sequence number of a row are packed into one integer: an array takes three times as long.
		SELECT l.tenant_id, c.period AS month, l.action, l.billing_unit AS unit, width_bucket(l.ts, bounds) AS price_range,
			count(*) AS calls, sum(l.charged_calls) AS charged_calls, sum(l.quantity) AS units, min(l.ts) AS first_ts, max(l.ts) AS last_ts,
			min(l.chain_id::bigint << 40 | l.chain_seq) AS first_row, max(l.chain_id::bigint << 40 | l.chain_seq) AS last_row
		FROM acp.charged_calls l JOIN cuts x ON x.chain_id = l.chain_id AND l.chain_seq <= x.upto
		WHERE NOT p_counted AND l.tenant_id = ANY (p_tenants) AND l.ts >= month_start AND l.ts < month_end
		GROUP BY 1, 3, 4, 5
		UNION ALL
		SELECT u.tenant_id, c.period, u.action, u.billing_unit, width_bucket(u.ts, bounds), sum(u.calls), sum(u.charged_calls), sum(u.quantity),
			min(u.ts), max(u.ts), NULL, NULL
		FROM passing u GROUP BY 1, 3, 4, 5
		UNION ALL
		SELECT g.tenant_id, c.period, g.action, g.unit, g.price_range, sum(g.calls), sum(g.charged_calls), sum(g.units), min(g.first_ts), max(g.last_ts),
			NULL, NULL
		FROM changing d CROSS JOIN LATERAL (
			SELECT l.tenant_id, l.action, l.billing_unit AS unit, width_bucket(l.ts, bounds) AS price_range, count(*) AS calls,
				sum(l.charged_calls) AS charged_calls, sum(l.quantity) AS units, min(l.ts) AS first_ts, max(l.ts) AS last_ts
			FROM acp.charged_calls l
			WHERE l.tenant_id = ANY (p_tenants) AND l.ts >= d.day::timestamp AT TIME ZONE 'UTC' AND l.ts < (d.day + 1)::timestamp AT TIME ZONE 'UTC'
			GROUP BY 1, 2, 3, 4) g
		GROUP BY 1, 3, 4, 5
		UNION ALL
		SELECT r.tenant_id, r.month, g.* FROM late r CROSS JOIN LATERAL (
			SELECT l.action, l.billing_unit, width_bucket(l.ts, bounds), count(*), sum(l.charged_calls), sum(l.quantity), min(l.ts), max(l.ts),
				min(l.chain_id::bigint << 40 | l.chain_seq), max(l.chain_id::bigint << 40 | l.chain_seq)
			FROM acp.charged_calls l JOIN cuts x ON x.chain_id = l.chain_id AND l.chain_seq <= x.upto
				AND (l.chain_seq > x.billed OR l.ts >= closed_end)
			WHERE l.tenant_id = r.tenant_id AND l.ts >= r.first AND l.ts < r.past
			GROUP BY 1, 2, 3) g
	), sums AS (
		-- Late rows are charged at the prices of their own month.
		SELECT f.*, acp.period_start(f.month) AS first, acp.period_end(f.month) AS past, coalesce(q.price_version, c.price_version) AS version
		FROM found f LEFT JOIN acp.billing_closings q ON q.period = f.month
	), priced AS (
		-- A price may apply before it is valid, if it is the earliest one.
		SELECT s.tenant_id, s.month, s.first, s.past, s.action, s.unit, p.unit AS price_unit, p.action_pattern, p.version, p.unit_amount, p.valid_from,
			min(CASE WHEN p.valid_from > greatest(s.first, bounds[s.price_range]) THEN s.first ELSE greatest(s.first, p.valid_from) END) AS from_ts,
			sum(s.calls)::bigint AS calls, sum(s.charged_calls) AS charged_calls, sum(s.units) AS units, min(s.first_ts) AS first_ts,
			max(s.last_ts) AS last_ts, min(s.first_row) AS first_row, max(s.last_row) AS last_row
		FROM sums s, LATERAL acp.billing_price(s.unit, s.action, greatest(s.first, bounds[s.price_range]), s.version) p
		GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
	), charges AS (
		SELECT p.*, CASE WHEN p.price_unit = p.unit THEN p.units ELSE p.charged_calls END AS quantity,
			lead(p.valid_from, 1, p.past) OVER (PARTITION BY p.tenant_id, p.month, p.action, p.unit ORDER BY p.valid_from) AS to_ts
		FROM priced p
	)
	SELECT x.tenant_id, c.period, 0, 'usage', x.month, x.action, x.unit, x.price_unit, x.action_pattern, x.version, x.unit_amount, x.calls,
		x.quantity::numeric, x.quantity * x.unit_amount, 0::bigint, x.from_ts, x.to_ts, x.first_ts, x.last_ts,
		(x.first_row >> 40)::integer, x.first_row & (1::bigint << 40) - 1, (x.last_row >> 40)::integer, x.last_row & (1::bigint << 40) - 1, NULL::bigint, NULL::text
	FROM charges x;
END
$$;
COMMENT ON FUNCTION acp.billing_usage(uuid[], acp.billing_closings, boolean, boolean) IS
	'Computes the usage lines of tenants, without line numbers. p_closed: from rows up to the cut of c.period; else from all rows. Reads the rows of the month in one pass. p_counted: reads the counters instead, and rows only of days on which a price changes; the lines then do not name their rows.';

CREATE OR REPLACE FUNCTION acp.invoice_round(INOUT b acp.billing_periods, INOUT p_lines acp.invoice_lines[], p_minimum numeric)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	u     CONSTANT record := acp.currency_unit(b.currency);
	-- The difference to the invoice that Stripe had already. It is the last line, and changes no other.
	more  CONSTANT numeric := (SELECT sum(x.amount) FROM unnest(p_lines) x WHERE x.kind = 'adjustment');
	l     acp.invoice_lines;
	parts bigint[];
BEGIN
	b.total := (SELECT coalesce(sum(x.amount), 0) FROM unnest(p_lines) x WHERE x.kind IS DISTINCT FROM 'adjustment');
	b.amount := CASE WHEN b.total > 0 AND b.total >= p_minimum THEN acp.money_minor(b.total, b.currency) ELSE 0 END;
	b.carried_out := CASE WHEN b.amount = 0 THEN b.total ELSE 0 END;
	b.status := CASE WHEN b.amount > 0 THEN 'pending' WHEN b.carried_out <> 0 THEN 'carried' ELSE 'paid' END;
	-- Largest remainder: each line gets its whole units, and the largest fractions get the remaining ones.
	SELECT array_agg((whole + CASE WHEN place <= b.amount / u.step - wholes THEN 1 ELSE 0 END) * u.step ORDER BY n) INTO parts FROM (
		SELECT y.n, y.whole, sum(y.whole) OVER () AS wholes, row_number() OVER (ORDER BY y.exact - y.whole DESC, y.n) AS place FROM (
			SELECT x.n, x.amount * u.per_major / u.step AS exact, floor(x.amount * u.per_major / u.step) AS whole
			FROM (SELECT z.amount, z.ordinality AS n FROM unnest(p_lines) WITH ORDINALITY z WHERE z.kind IS DISTINCT FROM 'adjustment') x) y) s;
	FOR i IN 1 .. cardinality(p_lines) LOOP
		l := p_lines[i];
		l.line := i;
		l.amount_minor := CASE WHEN l.kind = 'adjustment' THEN acp.money_minor(b.total + more, b.currency) - b.amount
			WHEN b.amount > 0 THEN parts[i] ELSE 0 END;
		p_lines[i] := l;
	END LOOP;
	IF more IS NOT NULL THEN
		b.total := b.total + more;
		b.amount := acp.money_minor(b.total, b.currency);
		b.carried_out := 0;
		b.status := 'pending';
	END IF;
	b.hash := sha256(convert_to(acp.invoice_text(b, p_lines), 'UTF8'));
END
$$;
COMMENT ON FUNCTION acp.invoice_round(acp.billing_periods, acp.invoice_lines[], numeric) IS
	'Totals an invoice: rounds once, half up, and divides the amount among the lines. An amount below the minimum or below zero is carried over. With a line of kind adjustment, the amount is the one that Stripe has.';

CREATE OR REPLACE FUNCTION acp.invoice_lines_besides(p_tenant uuid, c acp.billing_closings, p_closed boolean) RETURNS SETOF acp.invoice_lines
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	before CONSTANT acp.billing_periods := (SELECT b FROM acp.billing_periods b
		WHERE b.tenant_id = p_tenant AND b.period < c.period ORDER BY b.period DESC LIMIT 1);
	billed CONSTANT boolean := EXISTS (SELECT FROM acp.billing_periods b WHERE b.tenant_id = p_tenant AND b.period = c.period);
	l      acp.invoice_lines;
	k      acp.billing_credits;
	a      acp.billing_adjustments;
BEGIN
	l.tenant_id := p_tenant;
	l.period := c.period;
	l.calls := 0;
	l.quantity := 0;
	IF before.carried_out <> 0 AND before.currency <> c.currency THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('%s %s are carried over from %s, but this month is billed in %s', before.carried_out,
			before.currency, to_char(before.period, 'YYYY-MM'), c.currency), '/period');
	ELSIF before.carried_out <> 0 THEN
		l.kind := 'carry';
		l.source_period := before.period;
		l.amount := before.carried_out;
		RETURN NEXT l;
	END IF;
	l.kind := 'credit';
	l.source_period := NULL;
	FOR k IN SELECT * FROM acp.billing_credits x WHERE x.tenant_id = p_tenant
		AND CASE WHEN billed THEN x.period = c.period ELSE x.period IS NULL AND (NOT p_closed OR x.created_at <= c.closed_at) END
		ORDER BY x.credit_id
	LOOP
		l.amount := -k.amount;
		l.credit_id := k.credit_id;
		l.reason := k.reason;
		RETURN NEXT l;
	END LOOP;
	SELECT * INTO a FROM acp.billing_adjustments x WHERE x.tenant_id = p_tenant AND x.period = c.period;
	IF FOUND THEN
		l.kind := 'adjustment';
		l.amount := a.amount;
		l.credit_id := NULL;
		l.reason := a.reason;
		RETURN NEXT l;
	END IF;
END
$$;
COMMENT ON FUNCTION acp.invoice_lines_besides(uuid, acp.billing_closings, boolean) IS
	'The lines of an invoice that are not usage: the amount carried over from the previous invoice, then credits, then the difference to an invoice that Stripe had already.';

CREATE OR REPLACE FUNCTION acp.billing_fault(p_state text, p_message text) RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- The server's own troubles (connection, standby, transaction, resources, operator, system), and those of the
	-- installation (a missing function or right).
	IF left(p_state, 2) IN ('08', '0A', '25', '28', '40', '42', '53', '55', '57', '58', 'XX') THEN
		RETURN NULL;
	END IF;
	RETURN CASE WHEN p_state = 'ACP01' THEN p_message ELSE format('%s (SQLSTATE %s)', p_message, p_state) END;
END
$$;
COMMENT ON FUNCTION acp.billing_fault(text, text) IS
	'Says why the invoice of a tenant cannot be made, from an error. Null: the error is not the tenant''s, and ends the run.';

CREATE OR REPLACE FUNCTION acp.invoice_chargeable(b acp.billing_periods, p_lines acp.invoice_lines[]) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	most  CONSTANT bigint := acp.charge_max(b.currency);
	large numeric := b.amount;
	what  text := '';
BEGIN
	-- An invoice with a line of kind adjustment was made at Stripe already.
	IF EXISTS (SELECT FROM unnest(p_lines) x WHERE x.kind = 'adjustment') THEN
		RETURN;
	END IF;
	IF large <= most AND (SELECT sum(abs(x.amount_minor)) > most FROM unnest(p_lines) x) THEN
		-- As Stripe gets the lines: the last of them may be the sum of many.
		large := (SELECT max(abs((x->>'amount')::numeric)) FROM jsonb_array_elements(acp.billing_params(b, p_lines)->'lines') x);
		what := 'a line of ';
	END IF;
	IF large > most THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('%s%s %s is too large to be charged', what, acp.money_major(large::bigint, b.currency), b.currency));
	END IF;
END
$$;
COMMENT ON FUNCTION acp.invoice_chargeable(acp.billing_periods, acp.invoice_lines[]) IS
	'Refuses an invoice that Stripe would refuse: its amount, or a line, is more than acp.charge_max(). A stored invoice could not be corrected any more.';

CREATE OR REPLACE FUNCTION acp.billing_invoice(p_tenant uuid, p_lines acp.invoice_lines[], c acp.billing_closings,
	OUT invoice acp.billing_periods, OUT lines acp.invoice_lines[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	r record;
	l acp.invoice_lines;
BEGIN
	lines := p_lines;
	FOREACH l IN ARRAY lines LOOP
		IF l.amount IS NULL THEN
			PERFORM acp.fail('VALIDATION_ERROR', format('%s has no price for %s at %s: add one (acpctl price add)', l.billing_unit, l.action,
				acp.rfc3339(l.first_ts)));
		END IF;
	END LOOP;
	invoice.tenant_id := p_tenant;
	invoice.period := c.period;
	invoice.currency := c.currency;
	invoice.carried_in := coalesce((SELECT x.amount FROM unnest(lines) x WHERE x.kind = 'carry'), 0);
	invoice.billed_at := acp.now();
	invoice.retries := 0;
	invoice.updated_at := acp.now();
	SELECT * INTO r FROM acp.invoice_round(invoice, lines, c.minimum);
	invoice := r.b;
	lines := r.p_lines;
	PERFORM acp.invoice_chargeable(invoice, lines);
	invoice.paid_at := CASE WHEN invoice.status = 'paid' THEN acp.now() END;
END
$$;
COMMENT ON FUNCTION acp.billing_invoice(uuid, acp.invoice_lines[], acp.billing_closings) IS 'Makes an invoice from its lines.';

DROP FUNCTION IF EXISTS acp.billing_compute(uuid[], acp.billing_closings, boolean, boolean); -- its result has had one column less
CREATE FUNCTION acp.billing_compute(p_tenants uuid[], c acp.billing_closings, p_closed boolean, p_counted boolean DEFAULT false)
RETURNS TABLE (invoice acp.billing_periods, lines acp.invoice_lines[], blocked text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	used  acp.invoice_lines[];
	fault text;
	t     record;
	made  record;
BEGIN
	BEGIN
		used := ARRAY(SELECT u FROM acp.billing_usage(p_tenants, c, p_closed, p_counted) u);
	EXCEPTION WHEN OTHERS THEN
		fault := acp.billing_fault(SQLSTATE, SQLERRM);
		IF fault IS NULL THEN
			RAISE;
		ELSIF (SELECT count(DISTINCT x) > 1 FROM unnest(p_tenants) x) THEN
			FOR t IN SELECT DISTINCT x AS tenant_id FROM unnest(p_tenants) x ORDER BY 1 LOOP
				RETURN QUERY SELECT * FROM acp.billing_compute(ARRAY[t.tenant_id], c, p_closed, p_counted);
			END LOOP;
			RETURN;
		END IF;
	END;
	FOR t IN
		SELECT n.tenant_id, u.lines FROM (SELECT DISTINCT x AS tenant_id FROM unnest(p_tenants) x) n LEFT JOIN (
			SELECT u.tenant_id, array_agg(u ORDER BY u.source_period DESC, u.action COLLATE "C", u.billing_unit, u.from_ts) AS lines
			FROM unnest(used) u GROUP BY 1) u USING (tenant_id)
		ORDER BY 1
	LOOP
		blocked := fault;
		lines := coalesce(t.lines, '{}');
		invoice := NULL;
		invoice.tenant_id := t.tenant_id;
		invoice.period := c.period;
		invoice.currency := c.currency;
		BEGIN
			IF blocked IS NULL THEN
				lines := lines || ARRAY(SELECT b FROM acp.invoice_lines_besides(t.tenant_id, c, p_closed) b);
				CONTINUE WHEN cardinality(lines) = 0;
				SELECT * INTO made FROM acp.billing_invoice(t.tenant_id, lines, c);
				invoice := made.invoice;
				lines := made.lines;
			END IF;
		EXCEPTION WHEN OTHERS THEN
			blocked := acp.billing_fault(SQLSTATE, SQLERRM);
			IF blocked IS NULL THEN
				RAISE;
			END IF;
		END;
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION acp.billing_compute(uuid[], acp.billing_closings, boolean, boolean) IS
	'Computes the invoices of tenants for a month; a later computation gives the same result. Omits tenants with nothing to charge or carry over. blocked: why the invoice of this tenant cannot be made; the invoice then has no amounts. Null: it can.';

-- Runs ---------------------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION acp.billing_currencies(p_period date) RETURNS text[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- Currencies of prices that apply at some moment of the month.
	RETURN coalesce(nullif(ARRAY(SELECT DISTINCT p.currency FROM acp.prices p WHERE p.valid_from < acp.period_end(p_period) AND NOT EXISTS (
		SELECT FROM acp.prices n WHERE n.unit = p.unit AND n.action_pattern = p.action_pattern AND n.valid_from > p.valid_from
		  AND n.valid_from <= acp.period_start(p_period)) ORDER BY 1), '{}'), ARRAY[acp.currency()]);
END
$$;
COMMENT ON FUNCTION acp.billing_currencies(date) IS 'The currencies of the prices in force in a month: one, unless older versions accepted another.';

CREATE OR REPLACE FUNCTION acp.billing_terms_now(p_period date, p_minimum numeric) RETURNS acp.billing_closings
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	c          acp.billing_closings;
	currencies CONSTANT text[] := acp.billing_currencies(p_period);
BEGIN
	SELECT * INTO c FROM acp.billing_closings x WHERE x.period = p_period;
	IF NOT FOUND THEN
		c.period := p_period;
		c.closed_at := acp.now();
		c.price_version := coalesce((SELECT max(p.version) FROM acp.prices p), 0);
		c.currency := CASE WHEN cardinality(currencies) = 1 THEN currencies[1] ELSE acp.currency() END;
		c.minimum := acp.invoice_minimum(c.currency, p_minimum);
	END IF;
	RETURN c;
END
$$;
COMMENT ON FUNCTION acp.billing_terms_now(date, numeric) IS
	'acp.billing_terms() for what must be shown even if the prices are in two currencies: then in the currency of the installation.';

CREATE OR REPLACE FUNCTION acp.billing_terms(p_period date, p_minimum numeric) RETURNS acp.billing_closings
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	currencies CONSTANT text[] := acp.billing_currencies(p_period);
BEGIN
	IF cardinality(currencies) <> 1 AND NOT EXISTS (SELECT FROM acp.billing_closings x WHERE x.period = p_period) THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('prices in force in %s are in %s: a month needs one currency; acpctl doctor shows what to do',
			to_char(p_period, 'YYYY-MM'), array_to_string(currencies, ' and ')), '/period');
	END IF;
	RETURN acp.billing_terms_now(p_period, p_minimum);
END
$$;
COMMENT ON FUNCTION acp.billing_terms(date, numeric) IS
	'The stored terms of a closed month, or the terms with which an open month would be closed now. p_minimum: as acp.invoice_minimum() takes it.';

CREATE OR REPLACE FUNCTION acp.billing_close(p_period date, p_minimum numeric) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	label    CONSTANT text := to_char(p_period, 'YYYY-MM');
	unclosed date;
BEGIN
	IF acp.period_end(p_period) > acp.now() THEN
		PERFORM acp.fail('VALIDATION_ERROR', label || ' has not ended; only a dry run is possible', '/period');
	ELSIF EXISTS (SELECT FROM acp.billing_closings c WHERE c.period > p_period) THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('a month after %s is already billed; the rest of %s is billed with the next month', label, label), '/period');
	END IF;
	unclosed := (SELECT min(c.period) FROM acp.billing_closings c
		WHERE NOT EXISTS (SELECT FROM acp.billing_runs r WHERE r.period = c.period AND r.finished_at IS NOT NULL));
	unclosed := coalesce(unclosed, (SELECT date_trunc('month', min(u.day)::timestamp)::date FROM acp.usage_counters u WHERE u.billable AND u.tier = 'paid'
		AND u.day < p_period AND u.day >= coalesce((SELECT max(c.period) + interval '1 month' FROM acp.billing_closings c), '-infinity')));
	IF unclosed IS NOT NULL THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('bill %s first: it has unbilled paid calls', to_char(unclosed, 'YYYY-MM')), '/period');
	END IF;
	PERFORM pg_advisory_xact_lock(hashtext('acp.prices'));
	INSERT INTO acp.billing_closings SELECT (acp.billing_terms(p_period, p_minimum)).*;
	INSERT INTO acp.billing_cuts (period, chain_id, chain_seq) SELECT p_period, x.chain_id, x.seq FROM acp.audit_chains x WHERE x.seq > 0;
END
$$;
COMMENT ON FUNCTION acp.billing_close(date, numeric) IS
	'Fixes the input of the invoices of a month. Months are closed in order, each after the run of the previous month.';

CREATE OR REPLACE FUNCTION acp.billing_open(p_key text, p_period date, p_minimum numeric) RETURNS acp.billing_runs
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	month CONSTANT date := coalesce(p_period, (acp.period(acp.now()) - interval '1 month')::date);
	name  CONSTANT text := coalesce(p_key, 'billing-' || to_char(month, 'YYYY-MM'));
	run   acp.billing_runs;
BEGIN
	PERFORM pg_advisory_xact_lock(hashtext('acp.billing'));
	SELECT * INTO run FROM acp.billing_runs r WHERE r.run_key = name;
	IF FOUND THEN
		IF run.period <> month THEN
			PERFORM acp.fail('IDEMPOTENCY_MISMATCH', 'this key belongs to the run of ' || to_char(run.period, 'YYYY-MM'), '/period');
		END IF;
		RETURN run;
	END IF;
	IF NOT EXISTS (SELECT FROM acp.billing_closings c WHERE c.period = month) THEN
		PERFORM acp.billing_close(month, p_minimum);
	END IF;
	INSERT INTO acp.billing_runs (run_key, period, started_at) VALUES (name, month, acp.now()) RETURNING * INTO run;
	RETURN run;
END
$$;
COMMENT ON FUNCTION acp.billing_open(text, date, numeric) IS
	'Begins a run or finds the run with this key (null: billing-YYYY-MM). p_period null: the last complete month. Holds the billing lock until the transaction ends.';

CREATE OR REPLACE FUNCTION acp.billing_tenants(p_period date, p_after uuid, p_max integer, p_billed boolean) RETURNS uuid[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN ARRAY(
		SELECT t.tenant_id FROM acp.tenants t
		WHERE (p_after IS NULL OR t.tenant_id > p_after)
		  AND (p_billed OR NOT EXISTS (SELECT FROM acp.billing_periods b WHERE b.tenant_id = t.tenant_id AND b.period = p_period))
		  AND (EXISTS (SELECT FROM acp.usage_counters u WHERE u.tenant_id = t.tenant_id AND u.billable AND u.tier = 'paid'
				AND u.day < p_period + interval '1 month')
			OR EXISTS (SELECT FROM acp.billing_periods b WHERE b.tenant_id = t.tenant_id)
			OR EXISTS (SELECT FROM acp.billing_credits k WHERE k.tenant_id = t.tenant_id))
		ORDER BY t.tenant_id LIMIT p_max);
END
$$;
COMMENT ON FUNCTION acp.billing_tenants(date, uuid, integer, boolean) IS
	'Tenants after p_after, in order, that may need an invoice for a month. p_billed: includes tenants that already have it.';

CREATE OR REPLACE FUNCTION acp.billing_params(b acp.billing_periods, p_lines acp.invoice_lines[]) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	most CONSTANT integer := 200; -- Stripe takes 250 lines
BEGIN
	RETURN jsonb_build_object('tenant_uuid', b.tenant_id, 'period', to_char(b.period, 'YYYY-MM'), 'currency', lower(b.currency COLLATE "C"), 'amount', b.amount,
		'hash', encode(b.hash, 'hex'), 'lines',
		(SELECT jsonb_agg(jsonb_build_object('description', x.title, 'amount', x.amount) ORDER BY x.line) FROM (
			SELECT l.line, acp.invoice_line_title(l, b.currency) AS title, l.amount_minor AS amount FROM unnest(p_lines) l WHERE l.line <= most
			UNION ALL
			SELECT most + 1, format('%s more lines', count(*)), sum(l.amount_minor) FROM unnest(p_lines) l WHERE l.line > most HAVING count(*) > 0) x));
END
$$;
COMMENT ON FUNCTION acp.billing_params(acp.billing_periods, acp.invoice_lines[]) IS 'Builds the parameters of stripe.invoices.create for an invoice.';

CREATE OR REPLACE FUNCTION acp.billing_obligation(p_tenant uuid, p_period date) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN 'billing-' || p_tenant || '-' || to_char(p_period, 'YYYY-MM'); END $$;
COMMENT ON FUNCTION acp.billing_obligation(uuid, date) IS 'Name of the obligation to create an invoice at Stripe, one per tenant and month.';

CREATE OR REPLACE FUNCTION acp.billing_store(b acp.billing_periods, p_lines acp.invoice_lines[]) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO acp.billing_periods SELECT b.* ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	INSERT INTO acp.invoice_lines SELECT l.* FROM unnest(p_lines) l;
	UPDATE acp.billing_credits k SET period = b.period FROM unnest(p_lines) l
	WHERE k.tenant_id = b.tenant_id AND l.kind = 'credit' AND k.credit_id = l.credit_id;
	IF b.status = 'pending' THEN
		PERFORM acp.outbox_put(b.tenant_id, acp.billing_obligation(b.tenant_id, b.period), 'stripe.invoices.create', acp.billing_params(b, p_lines));
		PERFORM acp.outbox_customer(b.tenant_id);
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION acp.billing_store(acp.billing_periods, acp.invoice_lines[]) IS
	'Stores an invoice with its lines and its outbox obligation in one transaction. False: the tenant already has an invoice for this month.';

CREATE OR REPLACE FUNCTION acp.billing_end(b acp.billing_periods, p_lines acp.invoice_lines[], p_blocked text) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	fault text := p_blocked;
BEGIN
	IF fault IS NULL THEN
		BEGIN
			PERFORM acp.billing_store(b, p_lines);
			DELETE FROM acp.billing_blocked k WHERE k.tenant_id = b.tenant_id AND k.period = b.period;
			RETURN NULL;
		EXCEPTION WHEN OTHERS THEN
			fault := acp.billing_fault(SQLSTATE, SQLERRM);
			IF fault IS NULL THEN
				RAISE;
			END IF;
		END;
	END IF;
	INSERT INTO acp.billing_blocked (tenant_id, period, reason, blocked_at) VALUES (b.tenant_id, b.period, fault, acp.now())
	ON CONFLICT (tenant_id, period) DO UPDATE SET reason = excluded.reason;
	RETURN fault;
END
$$;
COMMENT ON FUNCTION acp.billing_end(acp.billing_periods, acp.invoice_lines[], text) IS
	'Stores an invoice, or records that the tenant is blocked (p_blocked: why its invoice cannot be made). Returns why it is blocked; null: the invoice is stored.';

CREATE OR REPLACE FUNCTION acp.billing_again(p_tenant uuid, p_period date) RETURNS date
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	stuck date;
	c     acp.billing_closings;
	none  acp.billing_periods;
	m     record;
BEGIN
	FOR c IN SELECT * FROM acp.billing_closings x WHERE x.period = p_period
		OR x.period IN (SELECT k.period FROM acp.billing_blocked k WHERE k.tenant_id = p_tenant) ORDER BY x.period
	LOOP
		-- Each invoice carries over what the previous one left.
		IF stuck IS NOT NULL THEN
			none.tenant_id := p_tenant;
			none.period := c.period;
			PERFORM acp.billing_end(none, NULL, format('the invoice of %s is blocked', to_char(stuck, 'YYYY-MM')));
			CONTINUE;
		END IF;
		FOR m IN SELECT * FROM acp.billing_compute(ARRAY[p_tenant], c, true) LOOP
			IF acp.billing_end(m.invoice, m.lines, m.blocked) IS NOT NULL THEN
				stuck := c.period;
			END IF;
		END LOOP;
		IF stuck IS NULL THEN -- a month may have nothing to charge any more
			DELETE FROM acp.billing_blocked k WHERE k.tenant_id = p_tenant AND k.period = c.period;
		END IF;
	END LOOP;
	RETURN stuck;
END
$$;
COMMENT ON FUNCTION acp.billing_again(uuid, date) IS
	'Bills the blocked months of a tenant and a month, in order. After one that is still blocked, the later ones are blocked too. Returns that one; null: none is blocked.';

CREATE OR REPLACE FUNCTION acp.billing_trial(p_tenant uuid, c acp.billing_closings, p_closed boolean,
	OUT invoice acp.billing_periods, OUT lines acp.invoice_lines[], OUT blocked text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	stuck date;
	m     record;
BEGIN
	stuck := acp.billing_again(p_tenant, c.period);
	IF NOT p_closed AND stuck IS NULL THEN
		FOR m IN SELECT * FROM acp.billing_compute(ARRAY[p_tenant], c, false) LOOP
			invoice := m.invoice;
			lines := m.lines;
			blocked := m.blocked;
		END LOOP;
	ELSE
		SELECT x.* INTO invoice FROM acp.billing_periods x WHERE x.tenant_id = p_tenant AND x.period = c.period;
		lines := acp.invoice_stored_lines(p_tenant, c.period);
		blocked := (SELECT k.reason FROM acp.billing_blocked k WHERE k.tenant_id = p_tenant AND k.period = c.period);
		IF NOT p_closed THEN
			blocked := format('the invoice of %s is blocked', to_char(stuck, 'YYYY-MM'));
		END IF;
		IF blocked IS NOT NULL THEN
			invoice.tenant_id := p_tenant;
			invoice.period := c.period;
			invoice.currency := c.currency;
		END IF;
	END IF;
	RAISE EXCEPTION USING ERRCODE = 'ACP05', MESSAGE = 'a trial run';
EXCEPTION WHEN SQLSTATE 'ACP05' THEN
	NULL; -- everything is undone; the result remains
END
$$;
COMMENT ON FUNCTION acp.billing_trial(uuid, acp.billing_closings, boolean) IS
	'What a run of a month would make of a tenant that has blocked months, as acp.billing_compute() returns it. Stores nothing. All null: nothing.';

CREATE OR REPLACE FUNCTION acp.billing_step(p_key text, p_after uuid, p_max integer) RETURNS uuid
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	run     acp.billing_runs;
	c       acp.billing_closings;
	tenants uuid[];
	waiting uuid[];
	made    record;
BEGIN
	PERFORM pg_advisory_xact_lock(hashtext('acp.billing'));
	SELECT * INTO STRICT run FROM acp.billing_runs r WHERE r.run_key = p_key;
	SELECT * INTO STRICT c FROM acp.billing_closings x WHERE x.period = run.period;
	tenants := acp.billing_tenants(run.period, p_after, p_max, false);
	waiting := ARRAY(SELECT DISTINCT k.tenant_id FROM acp.billing_blocked k WHERE k.tenant_id = ANY (tenants) ORDER BY 1);
	FOR made IN SELECT * FROM acp.billing_compute(ARRAY(SELECT t FROM unnest(tenants) t WHERE t <> ALL (waiting) ORDER BY 1), c, true) LOOP
		PERFORM acp.billing_end(made.invoice, made.lines, made.blocked);
	END LOOP;
	PERFORM acp.billing_again(t, run.period) FROM unnest(waiting) t;
	IF cardinality(tenants) < p_max THEN
		UPDATE acp.billing_runs SET finished_at = acp.now() WHERE run_key = p_key AND finished_at IS NULL;
		RETURN NULL;
	END IF;
	RETURN tenants[p_max];
END
$$;
COMMENT ON FUNCTION acp.billing_step(text, uuid, integer) IS
	'Bills up to p_max unbilled tenants after p_after. A tenant whose invoice cannot be made is recorded as blocked, and the others are billed. Returns the last one; null: all tenants are done.';

CREATE OR REPLACE FUNCTION acp.billing_result(p_period date, p_dry_run boolean, p_minimum numeric) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	c        CONSTANT acp.billing_closings := acp.billing_terms(p_period, p_minimum);
	closed   CONSTANT boolean := EXISTS (SELECT FROM acp.billing_closings x WHERE x.period = p_period);
	tenants  CONSTANT uuid[] := CASE WHEN p_dry_run THEN acp.billing_tenants(p_period, NULL, NULL, true) ELSE '{}' END;
	waiting  CONSTANT uuid[] := ARRAY(SELECT DISTINCT k.tenant_id FROM acp.billing_blocked k WHERE k.tenant_id = ANY (tenants)
		AND NOT EXISTS (SELECT FROM acp.billing_periods b WHERE b.tenant_id = k.tenant_id AND b.period = p_period));
	invoices jsonb;
	blocked  jsonb;
	amount   numeric;
BEGIN
	WITH made AS MATERIALIZED (
		SELECT b AS invoice, acp.invoice_stored_lines(b.tenant_id, b.period) AS lines, NULL AS blocked FROM acp.billing_periods b
		WHERE b.period = p_period AND NOT p_dry_run
		UNION ALL
		SELECT m.invoice, m.lines, m.blocked FROM acp.billing_compute(ARRAY(SELECT t FROM unnest(tenants) t WHERE t <> ALL (waiting)), c, closed) m
		UNION ALL
		SELECT m.invoice, m.lines, m.blocked FROM unnest(waiting) t, LATERAL acp.billing_trial(t, c, closed) m WHERE (m.invoice).tenant_id IS NOT NULL
	), failed AS (
		SELECT (m.invoice).tenant_id, m.blocked AS reason FROM made m WHERE m.blocked IS NOT NULL
		UNION ALL
		SELECT k.tenant_id, k.reason FROM acp.billing_blocked k WHERE k.period = p_period AND NOT p_dry_run
	)
	SELECT coalesce(jsonb_agg(jsonb_build_object('tenant_uuid', (m.invoice).tenant_id, 'amount', (m.invoice).amount,
			'status', CASE WHEN NOT p_dry_run THEN (m.invoice).status WHEN (m.invoice).amount > 0 THEN 'pending' WHEN (m.invoice).carried_out <> 0 THEN 'carried' ELSE 'paid' END,
			'total', trim_scale((m.invoice).total)::text, 'hash', encode((m.invoice).hash, 'hex'), 'lines', cardinality(m.lines),
			'invoice', acp.invoice_text(m.invoice, m.lines)) ORDER BY (m.invoice).tenant_id), '[]'), coalesce(sum((m.invoice).amount), 0),
		(SELECT coalesce(jsonb_agg(jsonb_build_object('tenant_uuid', f.tenant_id, 'reason', f.reason) ORDER BY f.tenant_id), '[]') FROM failed f)
	INTO invoices, amount, blocked FROM made m WHERE m.blocked IS NULL;
	RETURN jsonb_build_object('period', to_char(p_period, 'YYYY-MM'), 'dry_run', p_dry_run, 'currency', c.currency,
		'minimum', trim_scale(c.minimum)::text, 'amount', amount, 'invoices', invoices, 'blocked', blocked);
END
$$;
COMMENT ON FUNCTION acp.billing_result(date, boolean, numeric) IS
	'Result of the run of a month; p_dry_run: recomputed from the audit rows, before or after the run. Both give the same invoices, byte for byte. blocked: the tenants whose invoice cannot be made, with the reason.';

CREATE OR REPLACE FUNCTION acp.billing_done(p_run acp.billing_runs) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN p_run.finished_at IS NOT NULL AND NOT EXISTS (SELECT FROM acp.billing_blocked k WHERE k.period = p_run.period);
END
$$;
COMMENT ON FUNCTION acp.billing_done(acp.billing_runs) IS 'True if a run has billed all tenants, and none is blocked that another attempt may bill.';

CREATE OR REPLACE FUNCTION acp.billing_run(p_key text, p_period date, p_dry_run boolean, p_minimum numeric) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	run acp.billing_runs;
	at  uuid;
BEGIN
	IF p_dry_run THEN
		RETURN acp.billing_result(coalesce(p_period, (acp.period(acp.now()) - interval '1 month')::date), true, p_minimum);
	END IF;
	run := acp.billing_open(p_key, p_period, p_minimum);
	IF NOT acp.billing_done(run) THEN
		LOOP
			at := acp.billing_step(run.run_key, at, 500);
			EXIT WHEN at IS NULL;
		END LOOP;
	END IF;
	RETURN acp.billing_result(run.period, false, p_minimum);
END
$$;
COMMENT ON FUNCTION acp.billing_run(text, date, boolean, numeric) IS
	'A whole run in one transaction: acp.billing_open() and acp.billing_step() until all are done. p_period null: the last complete month.';

-- Life of an invoice after the run -----------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION acp.billing_executed(p_tenant uuid, p_obligation text, p_data jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	held CONSTANT text := p_data->>'hash';
	told acp.invoice_payments;
	b    acp.billing_periods;
	fact text;
BEGIN
	SELECT * INTO b FROM acp.billing_periods x
	WHERE x.tenant_id = p_tenant AND acp.billing_obligation(x.tenant_id, x.period) = left(p_obligation, 52) FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	SELECT * INTO told FROM acp.invoice_payments i WHERE i.stripe_invoice_id = p_data->>'invoice';
	fact := CASE WHEN p_data->>'status' = 'paid' THEN 'paid' WHEN p_data->>'status' IN ('void', 'deleted') THEN 'void'
		WHEN p_data->>'status' = 'uncollectible' OR p_data ? 'payment_error' THEN 'failed' END;
	IF b.status <> 'paid' THEN
		b.error := NULL;
		IF p_data->>'status' = 'paid' OR told.paid THEN
			b.status := 'paid';
			b.paid_at := coalesce(CASE WHEN told.paid THEN told.at END, acp.now());
		ELSIF p_data->>'status' IN ('void', 'uncollectible', 'deleted') THEN
			b.status := 'failed';
			b.error := 'the invoice is ' || (p_data->>'status') || ' at Stripe';
		ELSIF NOT told.paid OR p_data ? 'payment_error' OR p_obligation LIKE '%-pay-%' THEN
			b.status := 'failed';
			b.error := 'the payment failed';
		ELSE
			b.status := 'invoiced';
		END IF;
	END IF;
	fact := CASE WHEN b.status = 'paid' THEN 'paid' ELSE fact END;
	UPDATE acp.billing_periods x SET status = b.status, paid_at = b.paid_at, error = b.error, updated_at = acp.now(),
		stripe_invoice_id = coalesce(p_data->>'invoice', x.stripe_invoice_id),
		-- The same amount from rows that are in other places since a restore: the text of the invoice names the places.
		stripe_hash = CASE WHEN held ~ '^[0-9a-f]{64}$' THEN nullif(decode(held, 'hex'), x.hash) ELSE x.stripe_hash END
	WHERE x.tenant_id = b.tenant_id AND x.period = b.period;
	IF fact IS NOT NULL AND p_data->>'invoice' IS NOT NULL THEN
		PERFORM acp.invoice_told(p_data->>'invoice', fact, date_trunc('second', acp.now())); -- as exact as events
	END IF;
	PERFORM acp.payment_settle(p_tenant); -- events may have told of this invoice before its id was known
END
$$;
COMMENT ON FUNCTION acp.billing_executed(uuid, text, jsonb) IS
	'Records the success of an invoice obligation. p_data: answer of the executor (invoice, status, amount, hash?, payment_error?). Also applies a payment that Stripe reported earlier. A declined card makes the tenant past due, even if Stripe''s event is lost.';

CREATE OR REPLACE FUNCTION acp.billing_not_executed(p_tenant uuid, p_obligation text, p_error text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE acp.billing_periods b SET status = 'failed', error = p_error, updated_at = acp.now()
	WHERE b.tenant_id = p_tenant AND acp.billing_obligation(b.tenant_id, b.period) = left(p_obligation, 52) AND b.status <> 'paid';
END
$$;
COMMENT ON FUNCTION acp.billing_not_executed(uuid, text, text) IS 'Records that an invoice obligation was given up, with the reason.';

CREATE OR REPLACE FUNCTION acp.billing_paid(p_stripe_invoice text, p_paid boolean, p_at timestamptz) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO acp.invoice_payments AS i (stripe_invoice_id, paid, at) VALUES (p_stripe_invoice, p_paid, p_at)
	ON CONFLICT (stripe_invoice_id) DO UPDATE SET paid = excluded.paid, at = excluded.at
	WHERE NOT i.paid AND (excluded.paid OR excluded.at > i.at);
	UPDATE acp.billing_periods b SET status = CASE WHEN p_paid THEN 'paid' ELSE 'failed' END,
		paid_at = CASE WHEN p_paid THEN p_at END, error = CASE WHEN NOT p_paid THEN 'the payment failed' END, updated_at = acp.now()
	WHERE b.stripe_invoice_id = p_stripe_invoice AND b.status <> 'paid';
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION acp.billing_paid(text, boolean, timestamptz) IS
	'Records that Stripe reported an invoice as paid or its payment as failed. A paid invoice stays paid. False: nothing changed, or no invoice has this id yet; the event is then applied later.';

CREATE OR REPLACE FUNCTION acp.billing_retry(p_tenant uuid, p_period date) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	b       acp.billing_periods;
	name    text;
	revived integer;
	closed  text;
BEGIN
	SELECT * INTO b FROM acp.billing_periods x WHERE x.tenant_id = p_tenant AND x.period = p_period FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		PERFORM acp.fail('NOT_FOUND', 'this tenant has no invoice for this month');
	ELSIF b.status NOT IN ('failed', 'invoiced') THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('the invoice is %s; only a failed or unpaid invoice can be retried', b.status));
	END IF;
	closed := acp.invoice_closed(b.stripe_invoice_id);
	IF closed IS NOT NULL THEN
		PERFORM acp.fail('VALIDATION_ERROR', closed);
	END IF;
	name := acp.billing_obligation(b.tenant_id, b.period);
	IF b.stripe_invoice_id IS NULL THEN
		-- A dropped obligation is revived with its old date, so the executor looks it up at Stripe first.
		UPDATE acp.outbox SET done_at = NULL, result = NULL
		WHERE tenant_id = b.tenant_id AND obligation = name AND result = '{"dropped": true}';
		SELECT sum(acp.outbox_retry(o.outbox_id)) INTO revived FROM acp.outbox o WHERE o.tenant_id = b.tenant_id AND o.obligation = name;
		IF revived IS DISTINCT FROM 1 THEN
			PERFORM acp.fail('VALIDATION_ERROR', format('%s is running; try again in two minutes', name));
		END IF;
		b.status := 'pending';
	ELSE
		b.retries := b.retries + 1;
		name := name || '-pay-' || b.retries;
		PERFORM acp.outbox_put(b.tenant_id, name, 'stripe.invoices.pay', jsonb_build_object('invoice', b.stripe_invoice_id));
		b.status := 'invoiced';
	END IF;
	UPDATE acp.billing_periods x SET status = b.status, retries = b.retries, error = NULL, updated_at = acp.now()
	WHERE x.tenant_id = b.tenant_id AND x.period = b.period;
	RETURN name;
END
$$;
COMMENT ON FUNCTION acp.billing_retry(uuid, date) IS
	'Retries a failed invoice: creates it at Stripe if it is missing there, else pays it. Returns the name of the obligation. Refuses one that is settled or void.';

CREATE OR REPLACE FUNCTION acp.billing_credit(p_tenant uuid, p_amount numeric, p_currency text, p_reason text) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	billed CONSTANT text := (acp.billing_terms(acp.period(acp.now()), 0)).currency;
	minor  CONSTANT integer := (acp.currency_unit(billed)).per_major;
	number bigint;
BEGIN
	IF p_amount IN ('NaN', 'Infinity') OR p_amount <= 0 THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'the amount must be more than 0', '/amount');
	ELSIF p_amount * minor <> trunc(p_amount * minor) THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('%s is not a multiple of the smallest unit of %s (1/%s)',
			p_amount, billed, minor), '/amount');
	ELSIF p_currency <> billed THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('this installation bills in %s', billed), '/currency');
	END IF;
	INSERT INTO acp.billing_credits (tenant_id, amount, currency, reason, created_at)
	VALUES (p_tenant, p_amount, billed, p_reason, acp.now())
	RETURNING credit_id INTO number;
	RETURN number;
END
$$;
COMMENT ON FUNCTION acp.billing_credit(uuid, numeric, text, text) IS
	'Credits an amount to a tenant. It reduces the next invoice, and any rest the invoices after it. p_currency null: the currency of the prices. Returns the number of the credit.';

CREATE OR REPLACE FUNCTION acp.billing_correct(p_tenant uuid, p_event uuid, p_quantity bigint, p_reason text, p_integration text)
RETURNS acp.billing_corrections
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	l      record;
	billed date;
	k      acp.billing_corrections;
BEGIN
	PERFORM pg_advisory_xact_lock(hashtext('acp.billing'));
	IF p_quantity IS NULL OR p_quantity NOT BETWEEN 0 AND acp.quantity_max() THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('the quantity must be from 0 to %s', acp.quantity_max()), '/quantity');
	END IF;
	SELECT x.* INTO l FROM acp.audit_logs x WHERE x.tenant_id = p_tenant AND x.event_id = p_event;
	IF NOT FOUND THEN
		PERFORM acp.fail('NOT_FOUND', format('the tenant has no audit row with the event_id %s', p_event));
	ELSIF NOT l.billable OR l.tier <> 'paid' THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'this call is not charged; only a paid call can be corrected');
	END IF;
	billed := (SELECT x.period FROM acp.billing_cuts x WHERE x.chain_id = l.chain_id AND x.chain_seq >= l.chain_seq AND x.period >= acp.period(l.ts)
		ORDER BY x.period LIMIT 1);
	IF EXISTS (SELECT FROM acp.billing_periods b WHERE b.tenant_id = p_tenant AND b.period = billed) THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('this call is on the invoice of %s, which does not change; acpctl billing credit takes an amount off the next one',
			to_char(billed, 'YYYY-MM')));
	END IF;
	INSERT INTO acp.billing_corrections (tenant_id, event_id, ts, chain_id, chain_seq, action, billing_unit, quantity, charged, reason, corrected_at)
	VALUES (p_tenant, p_event, l.ts, l.chain_id, l.chain_seq, l.action, coalesce(l.billing_unit, 'call'), l.billing_quantity, p_quantity, p_reason, acp.now())
	ON CONFLICT DO NOTHING RETURNING * INTO k;
	IF k.event_id IS NULL THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'this call has been corrected already; each call can be corrected once');
	END IF;
	PERFORM acp.audit_append(jsonb_build_object('event_id', gen_random_uuid(), 'request_id', gen_random_uuid(),
		'tenant_id', '00000000-0000-0000-0000-000000000000', 'integration', p_integration, 'action', 'billing.correct', 'actor_type', 'system',
		'status', 'success', 'latency_ms', 0, 'dry_run', false, 'billable', false, 'billing_quantity', 1,
		'result_meta', jsonb_build_object('resource_type', 'audit_event', 'resource_id', p_event, 'tenant_id', p_tenant,
			'quantity', l.billing_quantity, 'charged', p_quantity)));
	RETURN k;
END
$$;
COMMENT ON FUNCTION acp.billing_correct(uuid, uuid, bigint, text, text) IS
	'Charges another quantity for a paid call that is on no invoice yet, once (0: the call costs nothing). The audit row stays as it is; an audit row billing.correct records the change. p_integration: the setting kernel_id.';

-- Queries for tenants and operators ----------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION acp.invoice_usage(p_tenant uuid, p_period date) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT jsonb_build_object('total_calls', coalesce(sum(n.charged + n.failed), 0), 'successful_calls', coalesce(sum(n.charged), 0),
			'failed_calls', coalesce(sum(n.failed), 0))
		FROM (SELECT CASE WHEN u.billable THEN u.calls ELSE 0 END AS charged, CASE WHEN u.status <> 'success' THEN u.calls ELSE 0 END AS failed
			FROM acp.usage_counters u
			WHERE u.tenant_id = p_tenant AND u.day >= p_period AND u.day < p_period + interval '1 month' AND u.tier = 'paid') n);
END
$$;
COMMENT ON FUNCTION acp.invoice_usage(uuid, date) IS
	'Member usage of an invoice: how many of the calls made as a paid tenant succeeded, and how many failed or were refused.';

CREATE OR REPLACE FUNCTION acp.invoice_json(p_tenant uuid, p_period date, p_minimum numeric) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	month  CONSTANT date := coalesce(p_period, acp.period(acp.now()));
	closed CONSTANT boolean := EXISTS (SELECT FROM acp.billing_closings x WHERE x.period = month);
	-- A month before the tenant existed may have no prices. Imported rows may be older than the tenant.
	before CONSTANT boolean := NOT closed AND month < acp.period((SELECT t.onboarded_at FROM acp.tenants t WHERE t.tenant_id = p_tenant))
		AND NOT EXISTS (SELECT FROM acp.usage_counters u WHERE u.tenant_id = p_tenant AND u.day >= month AND u.day < month + interval '1 month')
		AND NOT EXISTS (SELECT FROM acp.billing_periods x WHERE x.tenant_id = p_tenant AND x.period < month);
	c      CONSTANT acp.billing_closings := acp.billing_terms(CASE WHEN before THEN acp.period(acp.now()) ELSE month END, p_minimum);
	price  CONSTANT acp.prices := acp.billing_price('call', '*', CASE WHEN before THEN acp.now()
		ELSE least(acp.now(), acp.period_end(month) - interval '1 microsecond') END, c.price_version);
	-- Nobody but the operator is told why.
	stuck  boolean := EXISTS (SELECT FROM acp.billing_blocked k WHERE k.tenant_id = p_tenant AND k.period = month);
	b      acp.billing_periods;
	made   acp.invoice_lines[];
	m      record;
BEGIN
	SELECT * INTO b FROM acp.billing_periods x WHERE x.tenant_id = p_tenant AND x.period = month;
	made := acp.invoice_stored_lines(p_tenant, month);
	IF NOT closed AND NOT before THEN
		b := NULL;
		FOR m IN SELECT * FROM acp.billing_compute(ARRAY[p_tenant], c, false, true) LOOP
			b := m.invoice;
			made := m.lines;
			stuck := m.blocked IS NOT NULL;
		END LOOP;
	END IF;
	RETURN jsonb_build_object('tenant_uuid', p_tenant, 'period', to_char(month, 'YYYY-MM'), 'usage', acp.invoice_usage(p_tenant, month),
		'charges', jsonb_build_object('per_call', trim_scale(price.unit_amount), 'currency', c.currency,
			'total_charge', coalesce(CASE WHEN b.amount > 0 THEN acp.money_major(b.amount, c.currency) ELSE trim_scale(b.total) END, 0),
			'amount_due', coalesce(acp.money_major(b.amount, c.currency), 0), 'minimum', trim_scale(c.minimum),
			'carried_in', coalesce(trim_scale(b.carried_in), 0), 'carried_out', coalesce(trim_scale(b.carried_out), 0),
			'lines', (SELECT coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('line', l.line, 'kind', l.kind,
				'description', acp.invoice_line_title(l, c.currency), 'action', l.action, 'period', to_char(l.source_period, 'YYYY-MM'),
				'unit', l.unit, 'quantity', CASE WHEN l.kind = 'usage' THEN l.quantity END, 'unit_amount', trim_scale(l.unit_amount),
				'calls', CASE WHEN l.kind = 'usage' THEN l.calls END, 'amount', trim_scale(l.amount))) ORDER BY l.line), '[]') FROM unnest(made) l)),
		'hash', CASE WHEN closed OR before THEN encode(b.hash, 'hex') END, 'stripe_invoice_id', b.stripe_invoice_id,
		'status', CASE WHEN stuck THEN 'blocked' WHEN closed OR before THEN coalesce(b.status, 'none') ELSE 'open' END)
		|| acp.invoice_returned(b.stripe_invoice_id, c.currency);
END
$$;
COMMENT ON FUNCTION acp.invoice_json(uuid, date, numeric) IS
	'The invoice of a tenant and UTC month (null: this month) as the API shows it. status: open for a preview of a month that is not billed, blocked if its invoice cannot be made, none if there is no invoice and there cannot be one.';

CREATE OR REPLACE FUNCTION acp.usage_cost(p_tenant uuid, p_period date, OUT amount numeric, OUT currency text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	c CONSTANT acp.billing_closings := acp.billing_terms_now(p_period, NULL);
BEGIN
	currency := c.currency;
	IF EXISTS (SELECT FROM acp.billing_closings x WHERE x.period = p_period) THEN
		amount := (SELECT sum(l.amount) FROM acp.invoice_lines l WHERE l.tenant_id = p_tenant AND l.period = p_period AND l.kind = 'usage');
	ELSE
		amount := (SELECT sum(l.amount) FROM acp.billing_usage(ARRAY[p_tenant], c, false, true) l
			JOIN acp.prices p ON p.version = l.price_version AND p.currency = c.currency);
	END IF;
	amount := trim_scale(coalesce(amount, 0));
END
$$;
COMMENT ON FUNCTION acp.usage_cost(uuid, date) IS
	'The sum of the usage lines of the invoice of a tenant and UTC month, or of its preview: unrounded, without what is carried over and without credits.';

CREATE OR REPLACE FUNCTION acp.billing_unbilled(p_period date) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT coalesce(sum(u.calls), 0) FROM acp.usage_counters u
			WHERE u.day >= p_period AND u.day < p_period + interval '1 month' AND u.billable AND u.tier = 'paid')
		- (SELECT coalesce(sum(l.calls), 0) FROM acp.invoice_lines l WHERE l.kind = 'usage' AND l.source_period = p_period);
END
$$;
COMMENT ON FUNCTION acp.billing_unbilled(date) IS 'Number of paid calls of a month that are on no invoice.';

-- Proof --------------------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION acp.billing_differences(p_period date)
RETURNS TABLE (tenant_id uuid, period date, what text, billed text, rows text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH invoices AS MATERIALIZED (
		SELECT b.*, b AS invoice, acp.invoice_stored_lines(b.tenant_id, b.period) AS lines,
			(SELECT x.carried_out FROM acp.billing_periods x WHERE x.tenant_id = b.tenant_id AND x.period < b.period ORDER BY x.period DESC LIMIT 1) AS left_before
		FROM acp.billing_periods b WHERE p_period IS NULL OR b.period = p_period
	), charged AS MATERIALIZED (
		SELECT l.* FROM acp.invoice_lines l WHERE l.kind = 'usage' AND (p_period IS NULL OR l.source_period = p_period)
	), ranges AS MATERIALIZED (
		-- One pass over the log finds for each row the month that bills it (null: not billed). Between two
		-- price changes all rows of an action and unit belong to one line.
		SELECT l.tenant_id, date_trunc('month', l.ts AT TIME ZONE 'UTC')::date AS source_period, l.action, l.billing_unit,
			k.period, width_bucket(l.ts, (SELECT '{-infinity}'::timestamptz[] || array_agg(DISTINCT p.valid_from ORDER BY p.valid_from) FROM acp.prices p)),
			count(*) AS calls, sum(l.charged_calls) AS charged_calls, sum(l.quantity) AS units, min(l.ts) AS first_ts, max(l.ts) AS last_ts,
			min(l.chain_id::bigint << 40 | l.chain_seq) AS first_row, max(l.chain_id::bigint << 40 | l.chain_seq) AS last_row
		FROM acp.charged_calls l LEFT JOIN LATERAL (
			SELECT x.period FROM acp.billing_cuts x WHERE x.chain_id = l.chain_id AND x.chain_seq >= l.chain_seq
			  AND x.period >= date_trunc('month', l.ts AT TIME ZONE 'UTC')::date ORDER BY x.period LIMIT 1) k ON true
		WHERE (p_period IS NULL OR (l.ts >= acp.period_start(p_period) AND l.ts < acp.period_end(p_period)))
		  AND NOT EXISTS (SELECT FROM acp.billing_blocked x WHERE x.tenant_id = l.tenant_id AND x.period = k.period)
		GROUP BY 1, 2, 3, 4, 5, 6
	), billed AS MATERIALIZED (
		SELECT s.*, i.line FROM ranges s LEFT JOIN charged i ON i.tenant_id = s.tenant_id AND i.period = s.period AND i.action = s.action
			AND i.billing_unit = s.billing_unit AND s.first_ts >= i.from_ts AND s.last_ts < i.to_ts
	), archived AS (
		SELECT a.tenant_id, a.month AS source_period, a.action, a.billing_unit, sum(a.calls) AS calls
		FROM acp.audit_archive_totals a WHERE a.billable AND a.tier = 'paid' AND (p_period IS NULL OR a.month = p_period)
		  AND a.month <= (SELECT max(x.period) FROM acp.billing_closings x)
		GROUP BY 1, 2, 3, 4
	), sums AS (
		SELECT s.tenant_id, s.source_period, s.action, s.billing_unit, sum(s.billed) AS billed, sum(s.rows) AS rows FROM (
			SELECT c.tenant_id, c.source_period, c.action, c.billing_unit, c.calls AS billed, 0 AS rows FROM charged c
			UNION ALL SELECT b.tenant_id, b.source_period, b.action, b.billing_unit, 0, b.calls FROM billed b WHERE b.period IS NOT NULL
			UNION ALL SELECT a.tenant_id, a.source_period, a.action, a.billing_unit, 0, a.calls FROM archived a) s
		GROUP BY 1, 2, 3, 4
	)
	SELECT s.tenant_id, s.source_period, format('calls of %s, unit %s, on invoices', s.action, s.billing_unit), s.billed::text, s.rows::text
	FROM sums s WHERE s.billed <> s.rows
	UNION ALL
	SELECT b.tenant_id, b.source_period, format('calls of %s, unit %s, that are billed with %s but are in no line', b.action, b.billing_unit,
		to_char(b.period, 'YYYY-MM')), '0', b.calls::text
	FROM billed b WHERE b.period IS NOT NULL AND b.line IS NULL
	UNION ALL
	-- A month with an archive may lack some rows of a line.
	SELECT c.tenant_id, c.period, format('%s of line %s', w.what, c.line), w.said, w.found
	FROM charged c LEFT JOIN (SELECT b.tenant_id, b.period, b.line, b.source_period, sum(b.calls) AS calls, sum(b.charged_calls) AS charged_calls, sum(b.units) AS units, min(b.first_row) AS first_row,
			max(b.last_row) AS last_row FROM billed b GROUP BY 1, 2, 3, 4) b
		ON b.tenant_id = c.tenant_id AND b.period = c.period AND b.line = c.line AND b.source_period = c.source_period,
		LATERAL (VALUES ('calls', c.calls::text, coalesce(b.calls, 0)::text),
			('quantity', c.quantity::text, coalesce(CASE WHEN c.unit = c.billing_unit THEN b.units ELSE b.charged_calls END, 0)::text),
			('first row', c.first_chain || ':' || c.first_seq, (b.first_row >> 40) || ':' || (b.first_row & (1::bigint << 40) - 1)),
			('last row', c.last_chain || ':' || c.last_seq, (b.last_row >> 40) || ':' || (b.last_row & (1::bigint << 40) - 1))) w(what, said, found)
	WHERE w.said IS DISTINCT FROM w.found AND NOT EXISTS (SELECT FROM acp.audit_archives a WHERE a.month = c.source_period)
	UNION ALL
	SELECT c.tenant_id, c.period, format('%s of line %s', w.what, c.line), w.said::text, w.found::text
	FROM charged c LEFT JOIN acp.prices p ON p.version = c.price_version,
		LATERAL (VALUES ('amount', c.amount, c.quantity * c.unit_amount), ('unit_amount', c.unit_amount, p.unit_amount)) w(what, said, found)
	WHERE w.said IS DISTINCT FROM w.found
	UNION ALL
	SELECT i.tenant_id, i.period, w.what, w.said, w.found
	FROM invoices i, LATERAL (SELECT sum(l.amount) AS total, sum(l.amount_minor) AS minor, coalesce(sum(l.amount) FILTER (WHERE l.kind = 'carry'), 0) AS carry
			FROM unnest(i.lines) l) l,
		LATERAL (VALUES ('sum of the lines', trim_scale(i.total)::text, trim_scale(l.total)::text),
			('sum of the lines in minor units', i.amount::text, l.minor::text),
			('amount', i.amount::text, CASE WHEN i.carried_out = 0 AND i.total > 0 THEN acp.money_minor(i.total, i.currency) ELSE 0 END::text),
			('carried over', trim_scale(i.carried_out)::text, CASE WHEN i.amount = 0 THEN trim_scale(i.total) ELSE 0 END::text),
			('carried over from before', trim_scale(i.carried_in)::text, trim_scale(coalesce(i.left_before, 0))::text),
			('line of what was carried over', trim_scale(i.carried_in)::text, trim_scale(l.carry)::text),
			('hash', encode(i.hash, 'hex'), encode(sha256(convert_to(acp.invoice_text(i.invoice, i.lines), 'UTF8')), 'hex')),
			('obligations', '1', CASE WHEN i.amount = 0 THEN '1' ELSE (SELECT count(*) FROM acp.outbox o WHERE o.tenant_id = i.tenant_id
				AND o.obligation = acp.billing_obligation(i.tenant_id, i.period) AND o.params->>'hash' = encode(i.hash, 'hex')
				AND o.params->>'amount' = i.amount::text)::text END)) w(what, said, found)
	WHERE w.said IS DISTINCT FROM w.found
	UNION ALL
	SELECT k.tenant_id, k.period, format('invoice, which is blocked: %s', k.reason), 'none', 'one'
	FROM acp.billing_blocked k WHERE p_period IS NULL OR k.period = p_period
	UNION ALL
	SELECT k.tenant_id, k.period, format('credit %s', k.credit_id), (SELECT trim_scale(-l.amount)::text FROM acp.invoice_lines l
		WHERE l.tenant_id = k.tenant_id AND l.period = k.period AND l.credit_id = k.credit_id), trim_scale(k.amount)::text
	FROM acp.billing_credits k WHERE k.period IS NOT NULL AND (p_period IS NULL OR k.period = p_period) AND k.amount IS DISTINCT FROM
		(SELECT -l.amount FROM acp.invoice_lines l WHERE l.tenant_id = k.tenant_id AND l.period = k.period AND l.credit_id = k.credit_id)
	UNION ALL
	SELECT tenant_id, period, 'adjustment', trim_scale(l.amount)::text, trim_scale(a.amount)::text
	FROM (SELECT x.tenant_id, x.period, x.amount FROM acp.invoice_lines x WHERE x.kind = 'adjustment') l
	FULL JOIN (SELECT x.tenant_id, x.period, x.amount FROM acp.billing_adjustments x) a USING (tenant_id, period)
	WHERE l.amount IS DISTINCT FROM a.amount AND (p_period IS NULL OR period = p_period)
$$;
COMMENT ON FUNCTION acp.billing_differences(date) IS
	'Differences between invoices and the audit rows, prices, credits and outbox, for one month or (null) all. No rows: each billable paid call of a billed month is in exactly one line, and the lines add up.';

CREATE OR REPLACE FUNCTION acp.hub_billing_run(p jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	result CONSTANT jsonb := acp.billing_run(p_ctx->>'idempotency_key', (p->>'period' || '-01')::date, coalesce((p->>'dry_run')::boolean, false),
		nullif(p_ctx->>'invoice_minimum', '')::numeric);
BEGIN
	PERFORM acp.hub_changed(p_ctx, jsonb_build_object('period', result->'period', 'dry_run', result->'dry_run', 'amount', result->'amount',
		'count', jsonb_array_length(result->'invoices'), 'blocked', jsonb_array_length(result->'blocked')));
	RETURN result;
END
$$;
COMMENT ON FUNCTION acp.hub_billing_run(jsonb, jsonb) IS 'billing/run: bills a month once, even if called several times.';

CREATE OR REPLACE FUNCTION acp.hub_billing_invoice(p jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t CONSTANT acp.tenants := acp.hub_tenant(p);
BEGIN
	RETURN acp.invoice_json(t.tenant_id, (p->>'period' || '-01')::date, nullif(p_ctx->>'invoice_minimum', '')::numeric);
END
$$;
COMMENT ON FUNCTION acp.hub_billing_invoice(jsonb, jsonb) IS 'billing/invoice: the invoice of a tenant and UTC month, for the kernel that answers the tenant.';

GRANT EXECUTE ON FUNCTION acp.price_billed(acp.prices), acp.prices_guard(), acp.prices_last(), acp.currency(),
	acp.price_check(text, text, numeric, text), acp.price_add(text, text, numeric, text, timestamptz), acp.price_remove(bigint),
	acp.price_currency(text, numeric), acp.price_strays(), acp.invoice_minimum(text, numeric), acp.billing_currencies(date),
	acp.billing_terms_now(date, numeric), acp.usage_cost(uuid, date),
	acp.billing_price(text, text, timestamptz, bigint), acp.currency_unit(text), acp.money_minor(numeric, text),
	acp.money_major(bigint, text), acp.invoice_line_text(acp.invoice_lines),
	acp.invoice_text(acp.billing_periods, acp.invoice_lines[]), acp.invoice_stored_lines(uuid, date),
	acp.invoice_line_title(acp.invoice_lines, text), acp.billing_usage(uuid[], acp.billing_closings, boolean, boolean),
	acp.invoice_round(acp.billing_periods, acp.invoice_lines[], numeric),
	acp.invoice_lines_besides(uuid, acp.billing_closings, boolean),
	acp.billing_compute(uuid[], acp.billing_closings, boolean, boolean), acp.billing_fault(text, text),
	acp.charge_max(text), acp.invoice_chargeable(acp.billing_periods, acp.invoice_lines[]),
	acp.billing_invoice(uuid, acp.invoice_lines[], acp.billing_closings),
	acp.billing_end(acp.billing_periods, acp.invoice_lines[], text), acp.billing_again(uuid, date),
	acp.billing_trial(uuid, acp.billing_closings, boolean), acp.billing_done(acp.billing_runs),
	acp.billing_correct(uuid, uuid, bigint, text, text), acp.billing_terms(date, numeric),
	acp.billing_close(date, numeric), acp.billing_open(text, date, numeric),
	acp.billing_tenants(date, uuid, integer, boolean), acp.billing_params(acp.billing_periods, acp.invoice_lines[]),
	acp.billing_obligation(uuid, date), acp.billing_store(acp.billing_periods, acp.invoice_lines[]),
	acp.billing_step(text, uuid, integer), acp.billing_result(date, boolean, numeric),
	acp.billing_run(text, date, boolean, numeric), acp.billing_executed(uuid, text, jsonb),
	acp.billing_not_executed(uuid, text, text), acp.billing_paid(text, boolean, timestamptz),
	acp.billing_retry(uuid, date), acp.billing_credit(uuid, numeric, text, text), acp.invoice_usage(uuid, date),
	acp.invoice_json(uuid, date, numeric), acp.billing_unbilled(date), acp.billing_differences(date),
	acp.hub_billing_run(jsonb, jsonb), acp.hub_billing_invoice(jsonb, jsonb) TO acp_app;
