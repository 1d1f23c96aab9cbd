#!/bin/sh
# Runs acp.fcgi on a host without systemd: acp-fcgi.sh start | stop | reload, as root. With another init system, run
#   ACP_LISTEN=/run/acp-fcgi/acp.sock acp.fcgi
# as user acp in the foreground. This script does the same, and also makes the folder of the socket.
set -eu
PATH=$PATH:/usr/sbin:/usr/local/sbin
PROGRAM=$(command -v acp.fcgi)
RUN=/run/acp-fcgi
PID=$RUN/acp.pid
WEB_GROUP=${WEB_GROUP:-www-data}

daemon()
{
	start-stop-daemon --quiet --pidfile "$PID" --user acp "$@"
}

case ${1:-} in
start)
	# Set-group-ID: the socket gets the group of the web server.
	install -d -o acp -g "$WEB_GROUP" -m 2750 "$RUN"
	export ACP_LISTEN="$RUN/acp.sock" ACP_LOG_FILE="${ACP_LOG_FILE:-/var/log/acp-fcgi/acp.log}"
	"$PROGRAM" --check-config
	daemon --start --oknodo --background --make-pidfile --chuid acp --exec "$PROGRAM"
	;;
stop) daemon --stop --oknodo --retry TERM/45/KILL/5 --remove-pidfile ;;
reload) daemon --stop --signal HUP ;;
*)
	echo "usage: $0 start | stop | reload" >&2
	exit 64
	;;
esac
