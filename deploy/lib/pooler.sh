# shellcheck shell=bash
# Runs PgBouncer in transaction mode between the responder and PostgreSQL (stack --pooler).

POOLER_PORT=6432

find_pooler() {
	POOLER_PROGRAM=$(command -v pgbouncer) || fail "pgbouncer is missing: apt-get install pgbouncer"
}

# Prints the address that the responder connects to.
app_database_url() {
	if [ -n "$POOLER" ]; then
		printf 'postgresql://acp_app@/acp?host=%s&port=%s' "$(url_encoded_path "$RUN/pooler")" "$POOLER_PORT"
	else
		database_url acp_app acp
	fi
}

# PgBouncer runs as the web server's user, which PostgreSQL maps to acp_app.
start_pooler() {
	if recorded_pid "$RUN/pooler.pid" >/dev/null; then
		return 0
	fi
	make_dir "$RUN/pooler" 750 "$WEB_USER"
	rm -f "$RUN/pooler/.s.PGSQL.$POOLER_PORT"
	make_log "$LOG/pooler.log" "$WEB_USER"
	fill "$REPO/deploy/conf/pgbouncer.ini.in" | write_file "$ETC/pgbouncer.ini" 640 "$WEB_GROUP" || true
	say "Starting PgBouncer"
	start_daemon "$RUN/pooler.pid" "$WEB_USER" "$LOG/pooler.log" "$POOLER_PROGRAM" -q "$ETC/pgbouncer.ini"
	wait_for 10 test -S "$RUN/pooler/.s.PGSQL.$POOLER_PORT" || {
		show_tail "$LOG/pooler.log"
		fail "PgBouncer did not start"
	}
}

# Waits until PostgreSQL can be reached through the pooler, if one runs. After a failed login PgBouncer refuses calls for
# server_login_retry, even if PostgreSQL accepts connections again.
wait_for_pooler() {
	recorded_pid "$RUN/pooler.pid" >/dev/null || return 0
	wait_for 10 reaches_postgres || {
		show_tail "$LOG/pooler.log"
		fail "PostgreSQL cannot be reached through PgBouncer"
	}
}

reaches_postgres() {
	POOLER=yes
	"$PGBIN/psql" -X -q -A -t -d "$(app_database_url)" -c 'select 1' >/dev/null 2>&1
}

stop_pooler() {
	local pid
	if pid=$(recorded_pid "$RUN/pooler.pid"); then
		say "Stopping PgBouncer (process $pid)"
		# SIGTERM stops it at once, even with clients.
		stop_process "$pid" 5
	fi
	rm -f "$RUN/pooler.pid"
}
