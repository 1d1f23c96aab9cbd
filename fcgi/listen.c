#include "listen.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { SYSTEMD_FD = 3 };

static bool is_listening(int fd)
{
	int listening = 0;
	socklen_t len = sizeof listening;
	return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) == 0 && listening;
}

/* sd_listen_fds(3): the descriptors are for this process only if LISTEN_PID is its pid. */
static bool systemd_passed_one(void)
{
	const char *pid = getenv("LISTEN_PID");
	const char *count = getenv("LISTEN_FDS");
	return pid && count && strtol(pid, NULL, 10) == (long)getpid() && strtol(count, NULL, 10) >= 1;
}

/* A path may be left over from a dead process. If a connection succeeds, the path belongs to a live one. */
static bool path_is_free(const struct sockaddr_un *address, char *why, size_t why_size)
{
	struct stat status;
	if (lstat(address->sun_path, &status) != 0)
		return true;
	if (!S_ISSOCK(status.st_mode)) {
		snprintf(why, why_size, "listen = %s: exists and is not a socket", address->sun_path);
		return false;
	}
	int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool taken = probe >= 0 && connect(probe, (const struct sockaddr *)address, sizeof *address) == 0;
	if (probe >= 0)
		close(probe);
	if (taken) {
		snprintf(why, why_size, "listen = %s: another program listens there; stop it first", address->sun_path);
		return false;
	}
	unlink(address->sun_path);
	return true;
}

/* Creates the socket under a temporary name and renames it once it listens. A client that sees the path can therefore
 * connect, and only with the configured permissions. */
static int bind_path(const struct acp_config *config, char *why, size_t why_size)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct sockaddr_un first = {.sun_family = AF_UNIX};
	size_t most = sizeof address.sun_path - sizeof ".new";
	if (strlen(config->listen) > most) {
		snprintf(why, why_size, "listen = %s: the path may have at most %zu bytes", config->listen, most);
		return -1;
	}
	memcpy(address.sun_path, config->listen, strlen(config->listen) + 1);
	snprintf(first.sun_path, sizeof first.sun_path, "%.*s.new", (int)most, config->listen);
	if (!path_is_free(&address, why, why_size) || !path_is_free(&first, why, why_size))
		return -1;
	char octal[16];
	snprintf(octal, sizeof octal, "%lld", (long long)config->listen_mode);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	mode_t before = umask(0777);
	bool bound = fd >= 0 && bind(fd, (const struct sockaddr *)&first, sizeof first) == 0;
	umask(before);
	if (bound && listen(fd, (int)config->backlog) == 0 &&
	    chmod(first.sun_path, (mode_t)strtol(octal, NULL, 8)) == 0 && rename(first.sun_path, address.sun_path) == 0)
		return fd;
	snprintf(why, why_size, "listen = %s: %s", config->listen, strerror(errno));
	if (fd >= 0)
		close(fd);
	return -1;
}

int acp_listen_open(const struct acp_config *config, enum acp_listen_kind *kind, char *why, size_t why_size)
{
	int fd = -1;
	if (systemd_passed_one() && is_listening(SYSTEMD_FD)) {
		*kind = ACP_LISTEN_SYSTEMD;
		fd = SYSTEMD_FD;
	} else if (*config->listen) {
		*kind = ACP_LISTEN_OWN;
		fd = bind_path(config, why, why_size);
	} else if (is_listening(STDIN_FILENO)) {
		*kind = ACP_LISTEN_STDIN;
		fd = STDIN_FILENO;
	} else {
		snprintf(why, why_size,
			 "nothing to listen on: set listen to the path of a Unix socket, or let a web server "
			 "start this program (it is not meant to be run by hand without one)");
	}
	if (fd >= 0) {
		fcntl(fd, F_SETFD, FD_CLOEXEC);
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	}
	return fd;
}

void acp_listen_unlink(const struct acp_config *config)
{
	unlink(config->listen);
}
