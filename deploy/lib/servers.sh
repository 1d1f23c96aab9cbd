# shellcheck shell=bash
# Manages the responder and the web server in front of it. Values of SERVER:
#   lighttpd, nginx, apache-proxy, caddy
#                   the responder is a supervisor on a Unix socket, started here; the web server passes requests to it
#   lighttpd-spawn  lighttpd starts two of the responder's processes (bin-path) and hands each its socket
#   apache-fcgid    Apache's mod_fcgid starts the responder's processes and hands each its socket
#   none            neither: only the database
SERVERS=(lighttpd lighttpd-spawn nginx apache-fcgid apache-proxy caddy)
# Values of MOUNT: / (every path), /api (with the other paths of the program), or /acp (everything below it).
MOUNTS=(/ /api /acp)

# check_server NAME
check_server() {
	local known
	for known in "${SERVERS[@]}"; do
		[ "$1" != "$known" ] || return 0
	done
	fail "--server $1: unknown; must be one of: ${SERVERS[*]}"
}

# check_mount PATH
check_mount() {
	local known
	for known in "${MOUNTS[@]}"; do
		[ "$1" != "$known" ] || return 0
	done
	fail "--mount $1: unknown; must be one of: ${MOUNTS[*]}"
}

# True if the responder is started here, not by the web server.
starts_responder() {
	case $SERVER in
	lighttpd | nginx | apache-proxy | caddy) return 0 ;;
	*) return 1 ;;
	esac
}

# Prints the setting url_prefix of the mount.
url_prefix() {
	[ "$MOUNT" != /acp ] || printf '/acp'
}

check_number() {
	[[ $2 =~ ^[1-9][0-9]{0,4}$ ]] && [ "$2" -le "$3" ] || fail "$1 $2: must be a number from 1 to $3"
}

# Records in a file that programs or settings have changed since the start, so that this is known even if this run
# fails.
note_change() {
	: >"$STATE/restart"
}

# Programs ----------------------------------------------------------------------------------------------------------

# install_programs [PREFIX]: installs them into the state folder, where the web server's user can run them.
install_programs() {
	local new=$STATE/prefix.new
	rm -rf -- "$new"
	if [ -n "${1:-}" ]; then
		[ -x "$1/sbin/acp.fcgi" ] && [ -x "$1/sbin/acpctl" ] || fail "--install $1: no sbin/acp.fcgi and sbin/acpctl there"
		mkdir -p "$new/share"
		cp -R "$1/sbin" "$new/sbin"
		cp -R "$1/share/acp-fcgi" "$new/share/acp-fcgi"
	else
		[ -f "$REPO/build/Makefile" ] || fail "$REPO/build: nothing is built there; run deploy/demo, or use --install PREFIX"
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
		database_url = $(app_database_url)
		sql_dir = $PREFIX/share/acp-fcgi/sql
		key_pepper_file = $ETC/key_pepper
		kernel_key_file = $ETC/kernel_key
		log_file = $RESPONDER_LOG
		journal_dir = $STATE/journal
		# On loopback all clients have one address, and tests onboard many agents.
		onboard_per_ip = 100000
		onboard_total = 100000
	END
	if [ -n "$EXAMPLES" ]; then
		printf 'actions_dir = %s\n' "$ETC/actions.d"
	fi
	if [ -n "$STRIPE" ]; then
		printf 'stripe_url = http://127.0.0.1:%s\n' "$STRIPE_PORT"
		printf '%s_file = %s\n' stripe_key "$ETC/stripe_key" stripe_webhook_secret "$ETC/stripe_webhook_secret" \
			executor_key "$ETC/executor_key"
	fi
	# Caddy adds X-Forwarded-For to every request: none of them is "local".
	if [ "$SERVER" = caddy ]; then
		echo 'metrics = on'
	fi
	if [ "$MOUNT" = /acp ]; then
		printf 'url_prefix = %s\n' "$(url_prefix)"
	fi
	if starts_responder; then
		printf 'listen = %s\nlisten_mode = 660\n' "$RESPONDER_SOCKET"
		[ -z "$WORKERS" ] || printf 'workers = %s\n' "$WORKERS"
	fi
}

# Drops our settings that --conf also has: the program refuses a name that is given twice.
with_extra_settings() {
	if [ -z "$EXTRA_CONF" ]; then
		cat
	else
		[ -r "$EXTRA_CONF" ] || fail "--conf $EXTRA_CONF: cannot read it"
		awk -F '[ \t]*=' 'NR == FNR { name = $1; gsub(/^[ \t]+/, "", name); if (name !~ /^#/ && name != "") given[name] = 1
			# An installation with a hub cannot be a hub itself.
			given[name "_file"] = 1
			if (name == "hub_url") given["kernel_key_file"] = 1
			# With a remote executor, this installation has no key of a vendor.
			if (name == "executor_url") given["stripe_key_file"] = given["executor_key_file"] = 1; next }
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

# fill TEMPLATE: prints it, with @NAME@ replaced by the value of NAME.
fill() {
	local name script='' out
	for name in "${PLACEHOLDERS[@]}"; do
		script+="s|@$name@|${!name}|g;"
	done
	out=$(sed -e "$script" "$1")
	if [[ $out =~ @([A-Z][A-Z0-9_]*)@ ]]; then
		fail "$1: @${BASH_REMATCH[1]}@ has no value"
	fi
	printf '%s\n' "$out"
}

PLACEHOLDERS=(PORT RUN LOG ETC SBIN WEB_USER WEB_GROUP RESPONDER_SOCKET PG_SOCKETS MAX_FDS MAX_CONNECTIONS MODULES MPM POOL POOL_MIN
	USER_LINE AT_ROOT AT_API AT_PREFIX EXTERNAL SPAWNED)

# shellcheck disable=SC2034 # fill reads them by name
web_values() {
	local hard
	hard=$(ulimit -Hn)
	MAX_FDS=24576
	if [ "$hard" != unlimited ] && [ "$hard" -lt "$MAX_FDS" ]; then
		MAX_FDS=$hard
	fi
	# lighttpd allows half as many connections as descriptors. This is enough for 10,000 clients that wait or send
	# slowly.
	MAX_CONNECTIONS=$((MAX_FDS / 2))
	POOL=${WORKERS:-16}
	POOL_MIN=$((POOL < 4 ? POOL : 4))
	MODULES=/usr/lib/apache2/modules
	for MPM in event worker prefork; do
		[ ! -e "$MODULES/mod_mpm_$MPM.so" ] || break
	done
	USER_LINE=
	if is_root; then
		USER_LINE="user $WEB_USER $WEB_GROUP;"
	fi
	# Lines of a template for other mounts, and for the other way to start the program, become comments.
	AT_ROOT='# ' AT_API='# ' AT_PREFIX='# ' EXTERNAL='# ' SPAWNED='# '
	case $MOUNT in
	/) AT_ROOT= ;;
	/api) AT_API= ;;
	/acp) AT_PREFIX= ;;
	esac
	if starts_responder; then
		EXTERNAL=
	else
		SPAWNED=
	fi
}

web_template() {
	case $SERVER in
	lighttpd-spawn) printf '%s' "$REPO/deploy/conf/lighttpd.conf.in" ;;
	*) printf '%s' "$REPO/deploy/conf/$SERVER.conf.in" ;;
	esac
}

write_web_config() {
	local text
	web_values
	WEB_CONF=$ETC/$SERVER.conf
	text=$(fill "$(web_template)")
	if printf '%s\n' "$text" | write_file "$WEB_CONF" 644 "$WEB_GROUP"; then
		note_change
	fi
	make_log "$LOG/web-error.log" "$WEB_USER"
	make_log "$LOG/web-access.log" "$WEB_USER"
}

# The examples -------------------------------------------------------------------------------------------------------

# Writes two actions without C (deploy/examples): a function over a sample table, and an upstream, which is a small
# Python program.
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

# The stand-in for Stripe --------------------------------------------------------------------------------------------

choose_stripe_port() {
	STRIPE_PORT=$((PORT < 65534 ? PORT + 2 : PORT - 2))
}

# Writes its keys, and a copy of the program that the web server's user can run.
write_stripe() {
	local name prefix
	choose_stripe_port
	for name in stripe_key:sk_test_ stripe_webhook_secret:whsec_ executor_key:acpx_; do
		prefix=${name#*:}
		name=${name%:*}
		if secret "$name" "$prefix" | write_file "$ETC/$name" 640 "$WEB_GROUP"; then
			note_change
		fi
	done
	make_dir "$STATE/stripe" 755 "$ME"
	make_dir "$STATE/stripe/state" 700 "$WEB_USER"
	for name in "$REPO"/tests/stripe/*.py; do
		write_file "$STATE/stripe/${name##*/}" 644 "$WEB_GROUP" <"$name" || true
	done
}

# Passes keys in the environment, because every user can see arguments.
start_stripe() {
	local -x STAND_IN_KEY STAND_IN_WEBHOOK_SECRET
	if recorded_pid "$RUN/stripe.pid" >/dev/null && stripe_listens; then
		return 0
	fi
	stop_stripe
	STAND_IN_KEY=$(secret stripe_key sk_test_)
	STAND_IN_WEBHOOK_SECRET=$(secret stripe_webhook_secret whsec_)
	say "Starting the stand-in for Stripe on 127.0.0.1:$STRIPE_PORT"
	make_log "$LOG/stripe.log" "$WEB_USER"
	start_daemon "$RUN/stripe.pid" "$WEB_USER" "$LOG/stripe.log" /usr/bin/python3 -B "$STATE/stripe/stand_in.py" \
		--port "$STRIPE_PORT" --webhook-url "http://127.0.0.1:$PORT/api/webhooks/stripe" \
		--state "$STATE/stripe/state/account.json"
	wait_for 10 stripe_listens || {
		show_tail "$LOG/stripe.log"
		fail "the stand-in for Stripe does not listen on 127.0.0.1:$STRIPE_PORT"
	}
}

stripe_listens() {
	(exec 3<>"/dev/tcp/127.0.0.1/$STRIPE_PORT") 2>/dev/null
}

stop_stripe() {
	local pid
	if pid=$(recorded_pid "$RUN/stripe.pid"); then
		stop_process "$pid" 5
	fi
	rm -f "$RUN/stripe.pid"
}

# The responder ------------------------------------------------------------------------------------------------------

responder_running() {
	recorded_pid "$RUN/responder.pid" >/dev/null
}

start_responder() {
	if responder_running; then
		return 0
	fi
	# Remove the workers and the socket of a killed supervisor.
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

# our_processes all|responder: prints the PIDs of the processes that run this folder's copy of the responder (and, with
# all, a web server with this folder's configuration). It also finds children whose parent was killed.
our_processes() {
	local proc
	local -a args
	for proc in /proc/[0-9]*; do
		mapfile -d '' -t args <"$proc/cmdline" || continue
		case ${args[0]:-}:${args[*]: -1} in
		"$SBIN/acp.fcgi:"* | */lighttpd:"$ETC"/lighttpd*.conf | */apache2:"$ETC"/apache-*.conf | */caddy:"$ETC/caddy.conf") ;;
		# nginx sets its title as one word. Its workers do not show the configuration, but they end with their
		# master.
		"nginx: master process"*"$ETC/nginx.conf"*) ;;
		*) continue ;;
		esac
		if process_started "${proc#/proc/}" >/dev/null && { [ "$1" = all ] || [ "${args[0]}" = "$SBIN/acp.fcgi" ]; }; then
			printf '%s\n' "${proc#/proc/}"
		fi
	done 2>/dev/null
}

# stop_left_over all|responder: stops those processes. A responder may finish its requests. Apache's children ignore
# SIGTERM after their parent has ended, so they get little time.
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
	# Kill only these: processes that a web server starts in their place must stay.
	wait_for "$patience" none_runs "${pids[@]}" || kill -KILL "${pids[@]}" 2>/dev/null || true
}

none_runs() {
	local pid
	for pid in "$@"; do
		! process_started "$pid" >/dev/null || return 1
	done
}

# Prints the PID of a running responder: the supervisor, or one of the processes of mod_fcgid.
responder_pid() {
	if starts_responder; then
		recorded_pid "$RUN/responder.pid"
	elif [ "$SERVER" != none ]; then
		our_processes responder | sed -n 1p | grep .
	else
		return 1
	fi
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
	lighttpd | lighttpd-spawn) WEB_SERVER=$(command -v lighttpd) || fail "lighttpd is missing: apt-get install lighttpd" ;;
	nginx) WEB_SERVER=$(command -v nginx) || fail "nginx is missing: apt-get install nginx" ;;
	caddy) WEB_SERVER=$(command -v caddy) || fail "caddy is missing: apt-get install caddy" ;;
	apache-proxy) WEB_SERVER=$(command -v apache2) || fail "apache2 is missing: apt-get install apache2" ;;
	apache-fcgid)
		WEB_SERVER=$(command -v apache2) || fail "apache2 is missing: apt-get install apache2 libapache2-mod-fcgid"
		[ -e /usr/lib/apache2/modules/mod_fcgid.so ] || fail "mod_fcgid is missing: apt-get install libapache2-mod-fcgid"
		;;
	esac
}

check_web_config() {
	local -a check
	case $SERVER in
	lighttpd*) check=("$WEB_SERVER" -tt -f "$WEB_CONF") ;;
	apache-*) check=("$WEB_SERVER" -t -f "$WEB_CONF") ;;
	nginx) check=("$WEB_SERVER" -t -c "$WEB_CONF" -e stderr) ;;
	caddy) check=(env "HOME=$RUN/web" "$WEB_SERVER" validate --adapter caddyfile --config "$WEB_CONF") ;;
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
	lighttpd*) start_daemon "$RUN/web.pid" "$ME" "$LOG/web.log" "$WEB_SERVER" -D -f "$WEB_CONF" ;;
	nginx) start_daemon "$RUN/web.pid" "$ME" "$LOG/web.log" "$WEB_SERVER" -e stderr -c "$WEB_CONF" ;;
	# Caddy does not drop root privileges by itself.
	caddy) HOME=$RUN/web start_daemon "$RUN/web.pid" "$WEB_USER" "$LOG/web.log" \
		"$WEB_SERVER" run --adapter caddyfile --config "$WEB_CONF" ;;
	apache-*)
		# Apache is not running (see above). It would trust a PID that now belongs to another process.
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
	case $(remembered server) in
	apache-fcgid | lighttpd-spawn) stop_left_over all ;;
	esac
}

# Runs before anything is started, so that a wrong port leaves nothing behind.
check_port() {
	if web_running; then
		return 0
	fi
	stop_web
	if port_is_taken; then
		fail "port $PORT on 127.0.0.1 is in use by another program; stop it, or choose another port with --port"
	fi
}

web_ready() {
	# A server that has ended will never be ready. The caller checks for that.
	! web_running || [ "$(curl -s -o /dev/null -m 5 -w '%{http_code}' --noproxy '*' "http://127.0.0.1:$PORT$(url_prefix)/readyz")" = 200 ]
}

wait_until_ready() {
	wait_for 30 web_ready && web_running && return 0
	show_tail "$LOG/web.log"
	show_tail "$LOG/web-error.log"
	show_tail "$RESPONDER_LOG"
	web_running || fail "$WEB_SERVER ended; it does not serve port $PORT"
	fail "http://127.0.0.1:$PORT$(url_prefix)/readyz did not answer 200 within 30 s"
}

# Everything ----------------------------------------------------------------------------------------------------------

stop_everything() {
	stop_web
	stop_responder
	stop_examples
	stop_stripe
	stop_pooler
	stop_postgres
}
