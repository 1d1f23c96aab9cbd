/* nothing.c - the do-nothing FastCGI responder that the benchmark compares with: reads the body, answers a fixed reply.
 *
 *     nothing SOCKET PROCESSES THREADS   listens on the Unix socket SOCKET with PROCESSES processes of THREADS threads
 *     nothing                            serves the socket on file descriptor 0, one request at a time (mod_fcgid)
 *
 * It shows the best that libfcgi can do: each thread waits in FCGX_Accept_r, the listen queue is as long as that of
 * acp.fcgi, and a completely read request is closed at once instead of waiting for the web server. */
#include <fcgiapp.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* As long as the reply to a paid call with one lead, without the parts that vary. */
static const char reply[] = "{\"ok\":true,\"request_id\":\"00000000-0000-4000-8000-000000000000\","
			    "\"data\":{\"scores\":[{\"id\":\"lead-1\",\"score\":8.5}]},\"dry_run\":false,"
			    "\"constraints_applied\":[\"tenant_scoped: 00000000-0000-4000-8000-000000000000\","
			    "\"rate_limit: 999999/1000000 remaining\"]}";

static int fail(const char *what, const char *value)
{
	fprintf(stderr, "nothing: %s %s: %s\n", what, value, strerror(errno));
	return 1;
}

static void answer(FCGX_Request *request, const char *head)
{
	char block[8192];
	while (FCGX_GetStr(block, sizeof block, request->in) > 0)
		;
	request->detached = 1; /* everything has been read, so closing at once loses nothing */
	FCGX_PutStr(head, (int)strlen(head), request->out);
	FCGX_PutStr(reply, (int)sizeof reply - 1, request->out);
}

static void *serve(void *listener)
{
	FCGX_Request request;
	char head[128];
	snprintf(head, sizeof head, "Status: 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
		 sizeof reply - 1);
	FCGX_InitRequest(&request, *(const int *)listener, 0);
	while (FCGX_Accept_r(&request) == 0)
		answer(&request, head);
	fprintf(stderr, "nothing: FCGX_Accept_r gave up\n");
	exit(1);
}

static int listen_on(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (fd < 0 || strlen(path) >= sizeof address.sun_path)
		return -1;
	snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
	unlink(path);
	if (bind(fd, (const struct sockaddr *)&address, sizeof address) != 0 || chmod(path, 0660) != 0 ||
	    listen(fd, 1024) != 0)
		return -1;
	return fd;
}

/* Runs in each process: starts the threads; the main thread is the first. */
static void serve_with(int listener, long threads)
{
	pthread_t thread;
	for (long i = 1; i < threads; i++)
		if (pthread_create(&thread, NULL, serve, &listener) != 0)
			exit(fail("pthread_create", ""));
	serve(&listener);
}

int main(int argc, char **argv)
{
	if ((argc != 1 && argc != 4) || FCGX_Init() != 0) {
		fputs("usage: nothing [SOCKET PROCESSES THREADS]\n", stderr);
		return 64;
	}
	/* libfcgi catches it and then stays in accept(). */
	signal(SIGTERM, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
	int listener = argc == 4 ? listen_on(argv[1]) : 0;
	long processes = argc == 4 ? strtol(argv[2], NULL, 10) : 1;
	long threads = argc == 4 ? strtol(argv[3], NULL, 10) : 1;
	if (listener < 0)
		return fail("cannot listen on", argv[1]);
	if (processes < 1 || threads < 1) {
		fputs("nothing: PROCESSES and THREADS are numbers from 1 on\n", stderr);
		return 64;
	}
	for (long i = 1; i < processes; i++)
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGTERM);
			break;
		}
	serve_with(listener, threads);
	return 0;
}
