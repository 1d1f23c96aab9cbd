#include "failing.h"

#include <curl/curl.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <libpq-fe.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static struct failing own;
struct failing *failing = &own;
static bool preloaded;

#define PER_THREAD static __thread __attribute__((tls_model("initial-exec")))
PER_THREAD bool mine;
PER_THREAD int paused;
PER_THREAD bool inside; /* one of the functions below is running */

/* The call stack of the last failing call. */
static void *where[24];
static int where_depth;

void failing_mine(bool is_mine)
{
	mine = is_mine;
}

void failing_pause(void)
{
	paused++;
}

void failing_resume(void)
{
	paused--;
}

void failing_arm(enum failing_kind kind, long nth, bool lasting)
{
	failing->kind = FAILING_NOTHING;
	failing->seen = failing->failed = 0;
	failing->lasting = lasting;
	failing->left = nth;
	failing->only = getpid();
	where_depth = 0;
	failing->kind = kind;
}

void failing_disarm(void)
{
	failing->kind = FAILING_NOTHING;
}

int failing_where(void **frames, int most)
{
	int depth = where_depth < most ? where_depth : most;
	for (int i = 0; i < depth; i++)
		frames[i] = where[i];
	return depth;
}

/* libfcgi ends the program when it runs out of memory (its Malloc asserts), so its own allocations never fail. */
static uintptr_t spared_from, spared_to;

static int spare_libfcgi(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)size;
	(void)arg;
	if (!info->dlpi_name || !strstr(info->dlpi_name, "/libfcgi.so"))
		return 0;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *part = &info->dlpi_phdr[i];
		if (part->p_type == PT_LOAD && (part->p_flags & PF_X)) {
			spared_from = info->dlpi_addr + part->p_vaddr;
			spared_to = spared_from + part->p_memsz;
		}
	}
	return 0;
}

/* True if this call must fail. caller: the address it returns to. */
static bool fails(enum failing_kind kind, const void *caller)
{
	uintptr_t at = (uintptr_t)caller;
	if (failing->kind != (long)kind || paused || inside || !(mine || preloaded) || failing->only != getpid() ||
	    (at >= spared_from && at < spared_to))
		return false;
	failing->seen++;
	long left = failing->left;
	if (!left)
		return false;
	left = --failing->left;
	if (left > 0)
		return false;
	/* 0 would mean "count only", so continue with -1 after the failing call. */
	if (left == 0)
		failing->left = -1;
	else if (!failing->lasting)
		return false;
	failing->failed++;
	if (!preloaded && !where_depth) {
		inside = true;
		where_depth = backtrace(where, ACP_COUNT(where));
		inside = false;
	}
	return true;
}

#define FAILS(kind) fails(kind, __builtin_return_address(0))

/* Memory ----------------------------------------------------------------------------------------------------------- */

#ifdef __SANITIZE_ADDRESS__
#define REAL(name) __interceptor_##name
#else
#define REAL(name) __libc_##name
#endif
extern void *REAL(malloc)(size_t size);
extern void *REAL(calloc)(size_t count, size_t size);
extern void *REAL(realloc)(void *block, size_t size);
extern void REAL(free)(void *block);
extern void *REAL(memalign)(size_t alignment, size_t size);

/* The story's blocks, by address: open addressing, without tombstones. */
enum { BITS = 16, SLOTS = 1 << BITS };
struct block {
	void *at;
	long when;
	int depth;
	void *frames[FAILING_FRAMES];
};
static struct block *blocks;
static pthread_mutex_t blocks_lock = PTHREAD_MUTEX_INITIALIZER;
static long live, generation;
static bool remember;

static size_t slot_of(const void *at)
{
	return (size_t)(((uintptr_t)at >> 4) * 0x9e3779b97f4a7c15u >> (64 - BITS));
}

static void *note(void *at)
{
	if (!at || preloaded || !mine || paused || inside || !blocks)
		return at;
	inside = true;
	pthread_mutex_lock(&blocks_lock);
	if (live < SLOTS / 2) {
		size_t i = slot_of(at);
		while (blocks[i].at)
			i = (i + 1) % SLOTS;
		blocks[i].at = at;
		blocks[i].when = generation;
		blocks[i].depth = remember ? backtrace(blocks[i].frames, FAILING_FRAMES) : 0;
		live++;
	}
	pthread_mutex_unlock(&blocks_lock);
	inside = false;
	return at;
}

/* Empties a slot, and moves later entries up if they belong before their place. */
static void empty_slot(size_t hole)
{
	size_t i = hole;
	for (;;) {
		i = (i + 1) % SLOTS;
		if (!blocks[i].at)
			break;
		size_t home = slot_of(blocks[i].at);
		if ((i > hole && (home <= hole || home > i)) || (i < hole && home <= hole && home > i)) {
			blocks[hole] = blocks[i];
			hole = i;
		}
	}
	blocks[hole].at = NULL;
}

/* Any thread may free the story's blocks. */
static bool forget(void *at)
{
	bool found = false;
	if (!at || preloaded || inside || !blocks)
		return false;
	inside = true;
	pthread_mutex_lock(&blocks_lock);
	size_t i = slot_of(at);
	while (blocks[i].at && blocks[i].at != at)
		i = (i + 1) % SLOTS;
	if (blocks[i].at) {
		empty_slot(i);
		live--;
		found = true;
	}
	pthread_mutex_unlock(&blocks_lock);
	inside = false;
	return found;
}

void failing_watch(bool stacks)
{
	if (!blocks) {
		void *room =
			mmap(NULL, SLOTS * sizeof *blocks, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		blocks = room == MAP_FAILED ? NULL : room;
	}
	remember = stacks;
	generation++;
}

long failing_live(void)
{
	long count = 0;
	for (size_t i = 0; blocks && live && i < SLOTS; i++)
		count += blocks[i].at && blocks[i].when == generation;
	return count;
}

int failing_leaks(void *frames[][FAILING_FRAMES], int *depths, int most)
{
	int count = 0;
	for (size_t i = 0; blocks && i < SLOTS && count < most; i++) {
		if (!blocks[i].at || blocks[i].when != generation)
			continue;
		depths[count] = blocks[i].depth;
		memcpy(frames[count++], blocks[i].frames, sizeof blocks[i].frames);
	}
	return count;
}

static void *no_memory(void)
{
	errno = ENOMEM;
	return NULL;
}

void *malloc(size_t size)
{
	return FAILS(FAILING_ALLOC) ? no_memory() : note(REAL(malloc)(size));
}

void *calloc(size_t count, size_t size)
{
	return FAILS(FAILING_ALLOC) ? no_memory() : note(REAL(calloc)(count, size));
}

void *realloc(void *block, size_t size)
{
	if (FAILS(FAILING_ALLOC))
		return no_memory();
	bool ours = forget(block);
	void *moved = REAL(realloc)(block, size);
	if (!block || ours)
		note(moved ? moved : size ? block : NULL);
	return moved;
}

void free(void *block)
{
	forget(block);
	REAL(free)(block);
}

void *memalign(size_t alignment, size_t size);

void *memalign(size_t alignment, size_t size)
{
	return FAILS(FAILING_ALLOC) ? no_memory() : note(REAL(memalign)(alignment, size));
}

void *aligned_alloc(size_t alignment, size_t size)
{
	return FAILS(FAILING_ALLOC) ? no_memory() : note(REAL(memalign)(alignment, size));
}

int posix_memalign(void **block, size_t alignment, size_t size)
{
	void *made = FAILS(FAILING_ALLOC) ? NULL : note(REAL(memalign)(alignment, size));
	if (!made)
		return ENOMEM;
	*block = made;
	return 0;
}

/* The real functions ----------------------------------------------------------------------------------------------- */

static void *next_of(const char *name)
{
	bool before = inside;
	inside = true;
	void *found = dlsym(RTLD_NEXT, name);
	inside = before;
	return found;
}

/* Defines `real` as the function of this name that ours replaces. */
#define NEXT(type, name, ...)                                                                                          \
	static type (*real)(__VA_ARGS__);                                                                              \
	if (!real)                                                                                                     \
	real = (type(*)(__VA_ARGS__))next_of(#name)

/* libpq ------------------------------------------------------------------------------------------------------------ */

static void cut(const PGconn *conn)
{
	int fd = conn ? PQsocket(conn) : -1;
	if (fd >= 0)
		shutdown(fd, SHUT_RDWR);
}

/* Called before a function that needs the connection. Returns true if the function must fail. */
static bool pq_fails(const PGconn *conn, const void *caller)
{
	if (fails(FAILING_PQ_LOST, caller))
		cut(conn);
	return fails(FAILING_PQ, caller);
}

static void pq_after(const PGconn *conn, const void *caller)
{
	if (fails(FAILING_PQ_AFTER, caller))
		cut(conn);
}

#define CALLER __builtin_return_address(0)

PGconn *PQconnectdbParams(const char *const *keywords, const char *const *values, int expand)
{
	NEXT(PGconn *, PQconnectdbParams, const char *const *, const char *const *, int);
	PGconn *conn = fails(FAILING_PQ, CALLER) ? NULL : real(keywords, values, expand);
	pq_after(conn, CALLER);
	return conn;
}

PGresult *PQexec(PGconn *conn, const char *query)
{
	NEXT(PGresult *, PQexec, PGconn *, const char *);
	PGresult *result = pq_fails(conn, CALLER) ? NULL : real(conn, query);
	pq_after(conn, CALLER);
	return result;
}

/* PQsendQuery… includes PQflush: the data is on its way before the connection is cut. */
static int sent(PGconn *conn, int done, const void *caller)
{
	if (done && failing->kind == FAILING_PQ_AFTER) {
		inside = true;
		PQflush(conn);
		inside = false;
		usleep(2000); /* let the data reach the server */
	}
	pq_after(conn, caller);
	return done;
}

int PQsendQueryParams(PGconn *conn, const char *command, int count, const Oid *types, const char *const *values,
		      const int *lengths, const int *formats, int format)
{
	NEXT(int, PQsendQueryParams, PGconn *, const char *, int, const Oid *, const char *const *, const int *,
	     const int *, int);
	if (pq_fails(conn, CALLER))
		return 0;
	return sent(conn, real(conn, command, count, types, values, lengths, formats, format), CALLER);
}

int PQsendPrepare(PGconn *conn, const char *name, const char *query, int count, const Oid *types)
{
	NEXT(int, PQsendPrepare, PGconn *, const char *, const char *, int, const Oid *);
	if (pq_fails(conn, CALLER))
		return 0;
	return sent(conn, real(conn, name, query, count, types), CALLER);
}

int PQsendQueryPrepared(PGconn *conn, const char *name, int count, const char *const *values, const int *lengths,
			const int *formats, int format)
{
	NEXT(int, PQsendQueryPrepared, PGconn *, const char *, int, const char *const *, const int *, const int *, int);
	if (pq_fails(conn, CALLER))
		return 0;
	return sent(conn, real(conn, name, count, values, lengths, formats, format), CALLER);
}

int PQconsumeInput(PGconn *conn)
{
	NEXT(int, PQconsumeInput, PGconn *);
	return pq_fails(conn, CALLER) ? 0 : real(conn);
}

int PQflush(PGconn *conn)
{
	NEXT(int, PQflush, PGconn *);
	return pq_fails(conn, CALLER) ? -1 : real(conn);
}

int PQsetnonblocking(PGconn *conn, int on)
{
	NEXT(int, PQsetnonblocking, PGconn *, int);
	return pq_fails(conn, CALLER) ? -1 : real(conn, on);
}

/* On failure, returns the result that libpq returns when it is out of memory. */
PGresult *PQgetResult(PGconn *conn)
{
	NEXT(PGresult *, PQgetResult, PGconn *);
	bool bad = pq_fails(conn, CALLER);
	PGresult *result = real(conn);
	if (!bad || !result)
		return result;
	PQclear(result);
	return PQmakeEmptyPGresult(conn, PGRES_FATAL_ERROR);
}

PGcancel *PQgetCancel(PGconn *conn)
{
	NEXT(PGcancel *, PQgetCancel, PGconn *);
	return pq_fails(conn, CALLER) ? NULL : real(conn);
}

int PQcancel(PGcancel *cancel, char *error, int size)
{
	NEXT(int, PQcancel, PGcancel *, char *, int);
	if (!fails(FAILING_PQ, CALLER))
		return real(cancel, error, size);
	if (size > 0)
		*error = '\0';
	return 0;
}

unsigned char *PQunescapeBytea(const unsigned char *text, size_t *len)
{
	NEXT(unsigned char *, PQunescapeBytea, const unsigned char *, size_t *);
	return fails(FAILING_PQ, CALLER) ? NULL : real(text, len);
}

/* libcurl ---------------------------------------------------------------------------------------------------------- */

CURL *curl_easy_init(void)
{
	NEXT(CURL *, curl_easy_init, void);
	return FAILS(FAILING_CURL) ? NULL : real();
}

#undef curl_easy_setopt
CURLcode curl_easy_setopt(CURL *handle, CURLoption option, ...)
{
	NEXT(CURLcode, curl_easy_setopt, CURL *, CURLoption, ...);
	va_list args;
	va_start(args, option);
	/* 64-bit numbers, longs and pointers are all passed the same way here. */
	void *value = va_arg(args, void *);
	va_end(args);
	return FAILS(FAILING_CURL) ? CURLE_OUT_OF_MEMORY : real(handle, option, value);
}

CURLcode curl_easy_perform(CURL *handle)
{
	NEXT(CURLcode, curl_easy_perform, CURL *);
	return FAILS(FAILING_CURL) ? CURLE_COULDNT_CONNECT : real(handle);
}

#undef curl_easy_getinfo
CURLcode curl_easy_getinfo(CURL *handle, CURLINFO info, ...)
{
	NEXT(CURLcode, curl_easy_getinfo, CURL *, CURLINFO, ...);
	va_list args;
	va_start(args, info);
	void *value = va_arg(args, void *);
	va_end(args);
	return FAILS(FAILING_CURL) ? CURLE_UNKNOWN_OPTION : real(handle, info, value);
}

struct curl_slist *curl_slist_append(struct curl_slist *list, const char *text)
{
	NEXT(struct curl_slist *, curl_slist_append, struct curl_slist *, const char *);
	return FAILS(FAILING_CURL) ? NULL : real(list, text);
}

CURLU *curl_url(void)
{
	NEXT(CURLU *, curl_url, void);
	return FAILS(FAILING_CURL) ? NULL : real();
}

CURLUcode curl_url_set(CURLU *url, CURLUPart what, const char *part, unsigned flags)
{
	NEXT(CURLUcode, curl_url_set, CURLU *, CURLUPart, const char *, unsigned);
	return FAILS(FAILING_CURL) ? CURLUE_OUT_OF_MEMORY : real(url, what, part, flags);
}

CURLUcode curl_url_get(CURLU *url, CURLUPart what, char **part, unsigned flags)
{
	NEXT(CURLUcode, curl_url_get, CURLU *, CURLUPart, char **, unsigned);
	return FAILS(FAILING_CURL) ? CURLUE_OUT_OF_MEMORY : real(url, what, part, flags);
}

/* Files ------------------------------------------------------------------------------------------------------------ */

static int fail_with(int error)
{
	errno = error;
	return -1;
}

static int mode_of(int flags, va_list args)
{
	return flags & (O_CREAT | O_TMPFILE) ? va_arg(args, int) : 0;
}

#define OPEN(name)                                                                                                     \
	int name(const char *path, int flags, ...)                                                                     \
	{                                                                                                              \
		NEXT(int, name, const char *, int, ...);                                                               \
		va_list args;                                                                                          \
		va_start(args, flags);                                                                                 \
		int mode = mode_of(flags, args);                                                                       \
		va_end(args);                                                                                          \
		return FAILS(FAILING_IO) ? fail_with(EMFILE) : real(path, flags, mode);                                \
	}
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                                                   \
	int name(int dir, const char *path, int flags, ...)                                                            \
	{                                                                                                              \
		NEXT(int, name, int, const char *, int, ...);                                                          \
		va_list args;                                                                                          \
		va_start(args, flags);                                                                                 \
		int mode = mode_of(flags, args);                                                                       \
		va_end(args);                                                                                          \
		return FAILS(FAILING_IO) ? fail_with(EMFILE) : real(dir, path, flags, mode);                           \
	}
OPENAT(openat)
OPENAT(openat64)

/* True for a file. libpq, libcurl and libfcgi read and write sockets, whose faults have their own kinds. */
static bool is_file(int fd)
{
	return failing->kind == FAILING_IO && lseek(fd, 0, SEEK_CUR) >= 0;
}

ssize_t read(int fd, void *bytes, size_t len)
{
	NEXT(ssize_t, read, int, void *, size_t);
	return is_file(fd) && FAILS(FAILING_IO) ? fail_with(EIO) : real(fd, bytes, len);
}

ssize_t write(int fd, const void *bytes, size_t len)
{
	NEXT(ssize_t, write, int, const void *, size_t);
	return is_file(fd) && FAILS(FAILING_IO) ? fail_with(ENOSPC) : real(fd, bytes, len);
}

#define PWRITE(name)                                                                                                   \
	ssize_t name(int fd, const void *bytes, size_t len, off_t at)                                                  \
	{                                                                                                              \
		NEXT(ssize_t, name, int, const void *, size_t, off_t);                                                 \
		return FAILS(FAILING_IO) ? fail_with(ENOSPC) : real(fd, bytes, len, at);                               \
	}
PWRITE(pwrite)
PWRITE(pwrite64)

int fsync(int fd)
{
	NEXT(int, fsync, int);
	return FAILS(FAILING_IO) ? fail_with(EIO) : real(fd);
}

int fdatasync(int fd)
{
	NEXT(int, fdatasync, int);
	return FAILS(FAILING_IO) ? fail_with(EIO) : real(fd);
}

int ftruncate(int fd, off_t len)
{
	NEXT(int, ftruncate, int, off_t);
	return FAILS(FAILING_IO) ? fail_with(EIO) : real(fd, len);
}

/* Returns the number of the error, and leaves errno alone. */
int posix_fallocate(int fd, off_t at, off_t len)
{
	NEXT(int, posix_fallocate, int, off_t, off_t);
	return FAILS(FAILING_IO) ? ENOSPC : real(fd, at, len);
}

int flock(int fd, int how);

int flock(int fd, int how)
{
	NEXT(int, flock, int, int);
	return FAILS(FAILING_IO) ? fail_with(ENOLCK) : real(fd, how);
}

int unlink(const char *path)
{
	NEXT(int, unlink, const char *);
	return FAILS(FAILING_IO) ? fail_with(EIO) : real(path);
}

int rename(const char *from, const char *to)
{
	NEXT(int, rename, const char *, const char *);
	return FAILS(FAILING_IO) ? fail_with(EIO) : real(from, to);
}

int mkdir(const char *path, mode_t mode);

int mkdir(const char *path, mode_t mode)
{
	NEXT(int, mkdir, const char *, mode_t);
	return FAILS(FAILING_IO) ? fail_with(ENOSPC) : real(path, mode);
}

FILE *fopen(const char *path, const char *mode)
{
	NEXT(FILE *, fopen, const char *, const char *);
	if (!FAILS(FAILING_IO))
		return real(path, mode);
	errno = EMFILE;
	return NULL;
}

/* Threads ---------------------------------------------------------------------------------------------------------- */

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *arg)
{
	NEXT(int, pthread_create, pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
	return FAILS(FAILING_THREAD) ? EAGAIN : real(thread, attributes, run, arg);
}

/* Start ------------------------------------------------------------------------------------------------------------ */

__attribute__((constructor)) static void prepare(void)
{
	const char *control = getenv("FAILING_CONTROL");
	inside = true;
	dl_iterate_phdr(spare_libfcgi, NULL);
	int fd = control ? open(control, O_RDWR | O_CLOEXEC) : -1;
	if (fd >= 0) {
		void *shared = mmap(NULL, sizeof *failing, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
		if (shared != MAP_FAILED) {
			preloaded = true;
			failing = shared;
		}
	}
	inside = false;
}
