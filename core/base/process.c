#include "process.h"

#include <fcntl.h>
#include <unistd.h>

/* Returns field number field (the first is 1) of a line of /proc/PID/stat. after_name points after the second field,
 * the name. */
static uint64_t stat_field(const char *after_name, int field)
{
	for (int at = 3; at < field && after_name; at++) {
		after_name = strchr(after_name + 1, ' ');
	}
	return after_name ? strtoull(after_name, NULL, 10) : 0;
}

bool acp_process_read(pid_t pid, struct acp_process_stats *stats)
{
	char path[32];
	char text[1024];
	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
	if (fd >= 0)
		close(fd);
	if (got <= 0)
		return false;
	text[got] = '\0';
	const char *name_end = strrchr(text, ')');
	if (!name_end || !name_end[1] || !name_end[2] || name_end[2] == 'Z' || name_end[2] == 'X')
		return false;
	const char *state = name_end + 1;
	*stats = (struct acp_process_stats){.started = stat_field(state, 22),
					    .ticks = stat_field(state, 14) + stat_field(state, 15),
					    .resident = stat_field(state, 24) * (uint64_t)sysconf(_SC_PAGESIZE),
					    .threads = (long)stat_field(state, 20)};
	return true;
}

bool acp_process_alive(pid_t pid, uint64_t started, struct acp_process_stats *stats)
{
	return acp_process_read(pid, stats) && stats->started == started;
}
