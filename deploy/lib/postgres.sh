# shellcheck shell=bash
# Manages a private PostgreSQL cluster: Unix socket only, durable, one database "acp".

# database_url ROLE DATABASE
database_url() {
	printf 'postgresql://%s@/%s?host=%s&port=5432' "$1" "$2" "$(url_encoded_path "$PG_SOCKETS")"
}

find_postgres() {
	PGBIN=$(newest_postgres_bin) || fail "PostgreSQL's server programs are not in /usr/lib/postgresql/*/bin: apt-get install postgresql"
	if [ -s "$PGDATA/PG_VERSION" ]; then
		local version
		version=$(cat "$PGDATA/PG_VERSION")
		PGBIN=/usr/lib/postgresql/$version/bin
		[ -x "$PGBIN/postgres" ] || fail "$PGDATA was made by PostgreSQL $version, which is not installed: apt-get install postgresql-$version"
	fi
}

# The pid file of the cluster survives a crash, and its number may then belong to another process.
postgres_pid() {
	local pid
	pid=$(head -n 1 "$PGDATA/postmaster.pid" 2>/dev/null) || return 1
	[[ $pid =~ ^[0-9]+$ ]] && process_started "$pid" >/dev/null && [ "$(readlink "/proc/$pid/cwd")" = "$PGDATA" ] && printf '%s\n' "$pid"
}

make_cluster() {
	say "Making a PostgreSQL cluster in $PGDATA"
	# The remains of an interrupted initdb are useless.
	rm -rf -- "$PGDATA"
	make_dir "$PGDATA" 700 "$PG_USER"
	as "$PG_USER" "$PGBIN/initdb" -D "$PGDATA" -U postgres --data-checksums -E UTF8 --locale=C --auth-local=peer \
		--auth-host=reject >"$LOG/initdb.log" 2>&1 || {
		show_tail "$LOG/initdb.log"
		fail "initdb failed in $PGDATA"
	}
	as "$PG_USER" sh -c 'echo "include '\''acp.conf'\''" >>"$1/postgresql.conf" && : >"$1/acp.made"' sh "$PGDATA"
}

# The durability settings are PostgreSQL's defaults: fsync, full_page_writes and synchronous_commit are on.
postgres_settings() {
	cat <<-END
		listen_addresses = ''
		unix_socket_directories = '$PG_SOCKETS'
		port = 5432
		max_connections = 200
		timezone = 'UTC'
		log_timezone = 'UTC'
		log_line_prefix = '%m [%p] %u@%d '
	END
}

# Maps system users to roles. PostgreSQL gets the system user of a connection from the kernel (peer).
postgres_ident() {
	local role
	for role in postgres acp_app acp_report; do
		printf 'acp %s %s\n' "$ME" "$role"
	done
	if [ "$PG_USER" != "$ME" ]; then
		printf 'acp %s postgres\n' "$PG_USER"
	fi
	if [ "$WEB_USER" != "$ME" ]; then
		printf 'acp %s acp_app\n' "$WEB_USER"
	fi
}

write_as_postgres() {
	as "$PG_USER" sh -c 'umask 077 && cat >"$1.new" && mv -f "$1.new" "$1"' sh "$1"
}

configure_cluster() {
	postgres_settings | write_as_postgres "$PGDATA/acp.conf"
	printf 'local all all peer map=acp\nlocal replication postgres peer map=acp\n' | write_as_postgres "$PGDATA/pg_hba.conf"
	postgres_ident | write_as_postgres "$PGDATA/pg_ident.conf"
}

# After kill -9 of the postmaster its children soon end by themselves. The files with its PID prevent the next start as
# long as any process has that PID, whether the zombie of the old one or another process.
clear_dead_postgres() {
	wait_for 30 no_postgres_left || fail "processes of a dead PostgreSQL still run in $PGDATA: stop them, then run this again"
	rm -f "$PGDATA/postmaster.pid" "$PG_SOCKETS/.s.PGSQL.5432.lock"
}

no_postgres_left() {
	local proc
	for proc in /proc/[0-9]*; do
		if [ "$(readlink "$proc/cwd")" = "$PGDATA" ] && process_started "${proc#/proc/}" >/dev/null; then
			return 1
		fi
	done 2>/dev/null
}

start_postgres() {
	find_postgres
	if postgres_pid >/dev/null; then
		return 0
	fi
	[ -e "$PGDATA/acp.made" ] || make_cluster
	clear_dead_postgres
	configure_cluster
	say "Starting PostgreSQL $(cat "$PGDATA/PG_VERSION")"
	make_log "$LOG/postgres.log" "$PG_USER"
	as "$PG_USER" "$PGBIN/pg_ctl" -D "$PGDATA" -l "$LOG/postgres.log" -w -t 60 start >"$LOG/pg_ctl.log" 2>&1 </dev/null 9>&- || {
		show_tail "$LOG/postgres.log"
		fail "PostgreSQL did not start within 60 s in $PGDATA"
	}
}

# stop_postgres [fast|immediate]
stop_postgres() {
	local pid
	pid=$(postgres_pid) || return 0
	find_postgres
	say "Stopping PostgreSQL (process $pid)"
	as "$PG_USER" "$PGBIN/pg_ctl" -D "$PGDATA" -w -t 60 -m "${1:-fast}" stop >"$LOG/pg_ctl.log" 2>&1 ||
		as "$PG_USER" "$PGBIN/pg_ctl" -D "$PGDATA" -w -t 30 -m immediate stop >>"$LOG/pg_ctl.log" 2>&1 || {
		show_tail "$LOG/pg_ctl.log"
		fail "PostgreSQL (process $pid) does not stop"
	}
}

# sql [PSQL-ARGUMENT…]: runs psql as superuser, with plain output, and stops at the first error.
sql() {
	"$PGBIN/psql" -X -q -A -t -v ON_ERROR_STOP=1 -d "$(database_url postgres acp)" "$@"
}

# create_database NAME: creates it if it does not exist.
create_database() {
	local there
	there=$("$PGBIN/psql" -X -A -t -d "$(database_url postgres postgres)" -c "select 1 from pg_database where datname = '$1'")
	if [ "$there" != 1 ]; then
		"$PGBIN/psql" -X -q -d "$(database_url postgres postgres)" -c "create database $1 template template0"
	fi
}

# migrate DATABASE
migrate() {
	local log=$LOG/migrate.log
	ACP_DATABASE_URL=$(database_url postgres "$1") "$SBIN/acpctl" --config "$ETC/acp.conf" migrate >"$log" 2>&1 </dev/null || {
		show_tail "$log"
		fail "acpctl migrate failed (database $1 in $PGDATA). To start again without its data: deploy/lib/stack down --purge --dir $DIR"
	}
}

# No other program uses this database, so reports need no schema name: select … from audit_logs. JIT is off, as it is
# for the program's roles: compiling these queries takes seconds, and running them takes milliseconds.
open_roles() {
	sql -c 'alter role acp_app login' -c 'alter role acp_report login' \
		-c 'alter database acp set search_path = acp_report, acp, public' -c 'alter database acp set jit = off' >>"$LOG/migrate.log" 2>&1 || {
		show_tail "$LOG/migrate.log"
		fail "the roles acp_app and acp_report could not be given LOGIN"
	}
}
