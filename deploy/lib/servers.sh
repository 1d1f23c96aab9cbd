# shellcheck shell=bash
# The responder and the web server in front of it. SERVER says which:
#   lighttpd      the responder is a supervisor on a Unix socket, started here; lighttpd passes requests to it
#   apache-fcgid  Apache's mod_fcgid starts the responder's processes and hands each its socket
#   none          neither: only the database

# check_server NAME
check_server() {
	case $1 in
	lighttpd | apache-fcgid) ;;
	nginx | apache-proxy) fail "--server $1 comes in a later version; lighttpd and apache-fcgid are here" ;;
	*) fail "--server $1: unknown; must be lighttpd or apache-fcgid" ;;
	esac
}

check_number() {
	[[ $2 =~ ^[1-9][0-9]{0,4}$ ]] && [ "$2" -le "$3" ] || fail "$1 $2: must be a number from 1 to $3"
}

# What runs now was started with other programs or settings. A file, so that an up that fails half-way is remembered.
note_change() {
	: >"$STATE/restart"
}

# Programs ----------------------------------------------------------------------------------------------------------

# install_programs [PREFIX]: into the state folder, where the web server's user can run them.
install_programs() {
	local new=$STATE/prefix.new
	rm -rf -- "$new"
	if [ -n "${1:-}" ]; then
		[ -x "$1/sbin/acp.fcgi" ] && [ -x "$1/sbin/acpctl" ] || fail "--install $1: no sbin/acp.fcgi and sbin/acpctl there"
		mkdir -p "$new/share"
		cp -R "$1/sbin" "$new/sbin"
		cp -R "$1/share/acp-fcgi" "$new/share/acp-fcgi"
	else
		[ -f "$REPO/build/Makefile" ] || fail "$REPO/build: nothing was built there; run deploy/demo, or give --install PREFIX"
		install_tree build "$new" "$LOG/install.log" || fail "make install failed (log: $LOG/install.log)"
	fi
	chmod -R go+rX "$new"
	if [ -d "$PREFIX" ] && same_programs "$new" "$PREFIX"; then
		rm -rf -- "$new"
		return 0
	fi
	note_change
	rm -rf -- "$PREFIX"
	mv "$new" "$PREFIX"
	as "$WEB_USER" "$SBIN/acp.fcgi" --version >"$LOG/install.log" 2>&1 || {
		show_tail "$LOG/install.log"
		fail "$SBIN/acp.fcgi: $WEB_USER cannot run it"
	}
}

same_programs() {
	diff -rq "$1/sbin" "$2/sbin" >/dev/null && diff -rq "$1/share/acp-fcgi" "$2/share/acp-fcgi" >/dev/null
}

# Configuration -----------------------------------------------------------------------------------------------------

responder_settings() {
	cat <<-END
		# Written by deploy/lib/stack; changes are lost at its next start. deploy/conf/acp.conf lists every setting.
		public_url = http://127.0.0.1:$PORT
		database_url = $(database_url acp_app acp)
		sql_dir = $PREFIX/share/acp-fcgi/sql
		key_pepper_file = $ETC/key_pepper
		kernel_key_file = $ETC/kernel_key
		log_file = $RESPONDER_LOG
		# On loopback everybody has one address, and tests onboard many agents.
		onboard_per_ip = 100000
		onboard_total = 100000
	END
	if [ -n "$EXAMPLES" ]; then
		printf 'actions_dir = %s\n' "$ETC/actions.d"
	fi
	if [ "$SERVER" = lighttpd ]; then
		printf 'listen = %s\nlisten_mode = 660\n' "$RESPONDER_SOCKET"
		[ -z "$WORKERS" ] || printf 'workers = %s\n' "$WORKERS"
	fi
}

# The caller's settings replace ours: the program refuses a name that is given twice.
with_extra_settings() {
	if [ -z "$EXTRA_CONF" ]; then
		cat
	else
		[ -r "$EXTRA_CONF" ] || fail "--conf $EXTRA_CONF: cannot read it"
		awk -F '[ \t]*=' 'NR == FNR { name = $1; gsub(/^[ \t]+/, "", name); if (name !~ /^#/ && name != "") given[name] = 1
			# An installation that has a hub is none itself.
			if (name == "hub_url" || name == "kernel_key") given["kernel_key_file"] = 1; next }
			!($1 in given)' "$EXTRA_CONF" -
		cat "$EXTRA_CONF"
	fi
}

write_responder_config() {
	local text
	if [ ! -s "$ETC/key_pepper" ]; then
		openssl rand -hex 32 | write_file "$ETC/key_pepper" 640 "$WEB_GROUP"
	fi
	if [ ! -s "$ETC/kernel_key" ]; then
		printf 'acpk_%s\n' "$(openssl rand -hex 24)" | write_file "$ETC/kernel_key" 640 "$WEB_GROUP"
	fi
	text=$(responder_settings | with_extra_settings)
	if printf '%s\n' "$text" | write_file "$ETC/acp.conf" 640 "$WEB_GROUP"; then
		note_change
	fi
	make_log "$RESPONDER_LOG" "$WEB_USER"
	as "$WEB_USER" "$SBIN/acp.fcgi" --config "$ETC/acp.conf" --check-config >"$LOG/install.log" 2>&1 </dev/null || {
		show_tail "$LOG/install.log"
		fail "$SBIN/acp.fcgi does not accept $ETC/acp.conf${EXTRA_CONF:+ (with the settings of $EXTRA_CONF)}"
	}
}

# fill TEMPLATE: @NAME@ becomes the value of NAME.
fill() {
	local name script='' out
	for name in "${PLACEHOLDERS[@]}"; do
		script+="s|@$name@|${!name}|g;"
	done
	out=$(sed -e "$script" "$1")
	if [[ $out =~ @([A-Z_]+)@ ]]; then
		fail "$1: nothing is known for @${BASH_REMATCH[1]}@"
	fi
	printf '%s\n' "$out"
}

PLACEHOLDERS=(PORT RUN LOG ETC SBIN WEB_USER WEB_GROUP RESPONDER_SOCKET MAX_FDS MAX_CONNECTIONS MODULES MPM POOL POOL_MIN)

# shellcheck disable=SC2034 # fill reads them by name
web_values() {
	local hard
	hard=$(ulimit -Hn)
	MAX_FDS=16384
	if [ "$hard" != unlimited ] && [ "$hard" -lt "$MAX_FDS" ]; then
		MAX_FDS=$hard
	fi
	MAX_CONNECTIONS=$((MAX_FDS / 3))
	POOL=${WORKERS:-16}
	POOL_MIN=$((POOL < 4 ? POOL : 4))
	MODULES=/usr/lib/apache2/modules
	for MPM in event worker prefork; do
		[ ! -e "$MODULES/mod_mpm_$MPM.so" ] || break
	done
}

write_web_config() {
	local text
	web_values
	WEB_CONF=$ETC/$SERVER.conf
	text=$(fill "$REPO/deploy/conf/$SERVER.conf.in")
	if printf '%s\n' "$text" | write_file "$WEB_CONF" 644 "$WEB_GROUP"; then
		note_change
	fi
	make_log "$LOG/web-error.log" "$WEB_USER"
	make_log "$LOG/web-access.log" "$WEB_USER"
}

# The examples -------------------------------------------------------------------------------------------------------

# Two actions without C (deploy/examples): a function over a sample table, and an upstream of one small Python program.
write_examples() {
	local file
	UPSTREAM_PORT=$((PORT < 65535 ? PORT + 1 : PORT - 1))
	make_dir "$ETC/actions.d" 755 "$ME"
	for file in "$PREFIX"/share/acp-fcgi/examples/actions.d/*.json; do
		if sed "s/:8765/:$UPSTREAM_PORT/" "$file" | write_file "$ETC/actions.d/${file##*/}" 644 "$WEB_GROUP"; then
			note_change
		fi
	done
}

start_examples() {
	sql -f "$PREFIX/share/acp-fcgi/examples/sql/contacts.sql" >>"$LOG/migrate.log" 2>&1 || {
		show_tail "$LOG/migrate.log"
		fail "the sample table could not be made"
	}
	if ! recorded_pid "$RUN/upstream.pid" >/dev/null; then
		make_log "$LOG/upstream.log" "$WEB_USER"
		start_daemon "$RUN/upstream.pid" "$WEB_USER" "$LOG/upstream.log" \
			/usr/bin/python3 "$PREFIX/share/acp-fcgi/examples/upstream.py" "$UPSTREAM_PORT"
	fi
	wait_for 10 upstream_listens || {
		show_tail "$LOG/upstream.log"
		fail "the example upstream does not listen on 127.0.0.1:$UPSTREAM_PORT"
	}
}

upstream_listens() {
	(exec 3<>"/dev/tcp/127.0.0.1/$UPSTREAM_PORT") 2>/dev/null
}

stop_examples() {
	local pid
	if pid=$(recorded_pid "$RUN/upstream.pid"); then
		stop_process "$pid" 5
	fi
	rm -f "$RUN/upstream.pid"
}

# The responder ------------------------------------------------------------------------------------------------------

responder_running() {
	recorded_pid "$RUN/responder.pid" >/dev/null
}

start_responder() {
	if responder_running; then
		return 0
	fi
	# Workers and a socket that a killed supervisor left.
	stop_left_over responder
	rm -f "$RESPONDER_SOCKET"
	say "Starting the responder"
	start_daemon "$RUN/responder.pid" "$WEB_USER" "$RESPONDER_LOG" "$SBIN/acp.fcgi" --config "$ETC/acp.conf"
	wait_for 20 responder_listens || true
	responder_running && responder_listens && return 0
	show_tail "$RESPONDER_LOG"
	fail "the responder $SBIN/acp.fcgi did not start"
}

responder_listens() {
	! responder_running || [ -S "$RESPONDER_SOCKET" ]
}

stop_responder() {
	local pid
	if pid=$(recorded_pid "$RUN/responder.pid"); then
		say "Stopping the responder (process $pid)"
		# Its own shutdown_timeout is 30 s.
		stop_process "$pid" 40
	fi
	rm -f "$RUN/responder.pid"
	stop_left_over responder
}

# our_processes: prints the numbers of processes that run this folder's private copy of the responder, or a web server
# with this folder's configuration. So children are found whose parent was killed.
our_processes() {
	local proc
	local -a args
	for proc in /proc/[0-9]*; do
		mapfile -d '' -t args <"$proc/cmdline" || continue
		case ${args[0]:-}:${args[*]: -1} in
		"$SBIN/acp.fcgi:"* | */lighttpd:"$ETC/lighttpd.conf" | */apache2:"$ETC/apache-fcgid.conf") ;;
		*) continue ;;
		esac
		if process_started "${proc#/proc/}" >/dev/null && { [ "$1" = all ] || [ "${args[0]}" = "$SBIN/acp.fcgi" ]; }; then
			printf '%s\n' "${proc#/proc/}"
		fi
	done 2>/dev/null
}

# stop_left_over all|responder. A responder may finish its requests; Apache's children ignore SIGTERM once their parent
# is gone, so these are not waited for.
stop_left_over() {
	local patience=3
	local -a pids
	mapfile -t pids < <(our_processes "$1")
	if [ "${#pids[@]}" -eq 0 ]; then
		return 0
	fi
	kill -TERM "${pids[@]}" 2>/dev/null || true
	if [ "$1" = responder ]; then
		patience=35
	fi
	wait_for "$patience" none_left "$1" && return 0
	mapfile -t pids < <(our_processes "$1")
	kill -KILL "${pids[@]}" 2>/dev/null || true
}

none_left() {
	[ -z "$(our_processes "$1")" ]
}

# Number of a running responder: the supervisor, or one of the processes that mod_fcgid started.
responder_pid() {
	case $SERVER in
	lighttpd) recorded_pid "$RUN/responder.pid" ;;
	apache-fcgid) our_processes responder | head -n 1 | grep . ;;
	*) return 1 ;;
	esac
}

# The web server -----------------------------------------------------------------------------------------------------

web_running() {
	recorded_pid "$RUN/web.pid" >/dev/null
}

port_is_taken() {
	(exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null
}

find_web_server() {
	case $SERVER in
	lighttpd) WEB_SERVER=$(command -v lighttpd) || fail "lighttpd is missing: apt-get install lighttpd" ;;
	apache-fcgid)
		WEB_SERVER=$(command -v apache2) || fail "apache2 is missing: apt-get install apache2 libapache2-mod-fcgid"
		[ -e /usr/lib/apache2/modules/mod_fcgid.so ] || fail "mod_fcgid is missing: apt-get install libapache2-mod-fcgid"
		;;
	esac
}

check_web_config() {
	local -a check
	case $SERVER in
	lighttpd) check=("$WEB_SERVER" -tt -f "$WEB_CONF") ;;
	apache-fcgid) check=("$WEB_SERVER" -t -f "$WEB_CONF") ;;
	esac
	"${check[@]}" >"$LOG/web.log" 2>&1 </dev/null || {
		show_tail "$LOG/web.log"
		fail "$WEB_SERVER does not accept $WEB_CONF"
	}
}

start_web() {
	if web_running; then
		return 0
	fi
	check_web_config
	say "Starting $SERVER on 127.0.0.1:$PORT"
	case $SERVER in
	lighttpd) start_daemon "$RUN/web.pid" "$ME" "$LOG/web.log" "$WEB_SERVER" -D -f "$WEB_CONF" ;;
	apache-fcgid)
		# Ours is not running (see above); Apache would believe a number that now belongs to something else.
		rm -f "$RUN/apache.pid"
		start_daemon "$RUN/web.pid" "$ME" "$LOG/web.log" "$WEB_SERVER" -D FOREGROUND -f "$WEB_CONF"
		;;
	esac
}

stop_web() {
	local pid
	if pid=$(recorded_pid "$RUN/web.pid"); then
		say "Stopping the web server (process $pid)"
		stop_process "$pid" 20
	fi
	rm -f "$RUN/web.pid"
	if [ "$(remembered server)" = apache-fcgid ]; then
		stop_left_over all
	fi
}

# Before anything is started: a wrong port should leave nothing behind.
check_port() {
	if web_running; then
		return 0
	fi
	stop_web
	if port_is_taken; then
		fail "port $PORT on 127.0.0.1 is in use by another program; end that, or choose another with --port"
	fi
}

web_ready() {
	# A server that ended will never be ready; the caller looks again.
	! web_running || [ "$(curl -s -o /dev/null -m 5 -w '%{http_code}' --noproxy '*' "http://127.0.0.1:$PORT/readyz")" = 200 ]
}

wait_until_ready() {
	wait_for 30 web_ready && web_running && return 0
	show_tail "$LOG/web.log"
	show_tail "$LOG/web-error.log"
	show_tail "$RESPONDER_LOG"
	web_running || fail "$WEB_SERVER ended instead of serving port $PORT"
	fail "http://127.0.0.1:$PORT/readyz did not answer 200 within 30 s"
}

# Everything ----------------------------------------------------------------------------------------------------------

stop_everything() {
	stop_web
	stop_responder
	stop_examples
	stop_postgres
}
