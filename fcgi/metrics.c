/* GET /metrics - for Prometheus: the requests that all processes of this host have served (metrics.h), the journal on
 * its disk, and the database's gauges. Names no tenant. */
#include "metrics.h"

#include "endpoints.h"
#include "journal.h"
#include "version.h"

/* The journal ------------------------------------------------------------------------------------------------- */

static void write_journal(const char *path, struct acp_buf *out)
{
	struct acp_journal_waiting waiting = {0};
	if (*path)
		waiting = acp_journal_waiting(path);
	acp_metrics_head(out, "acp_journal_rows", "gauge",
			 "Audit rows on the disk of this host that wait for the database.");
	acp_buf_printf(out, "acp_journal_rows %lld\n", (long long)waiting.rows);
	acp_metrics_head(out, "acp_journal_bytes", "gauge", "Bytes that these rows use of journal_max_bytes.");
	acp_buf_printf(out, "acp_journal_bytes %lld\n", (long long)waiting.bytes);
	acp_metrics_head(out, "acp_journal_bad_files", "gauge", "Journal files that are kept because of damage.");
	acp_buf_printf(out, "acp_journal_bad_files %lld\n", (long long)waiting.bad);
}

/* The database ------------------------------------------------------------------------------------------------ */

static void write_gauge(struct json_object *gauge, struct acp_buf *out)
{
	const char *name = acp_json_string(gauge, "name");
	struct json_object *samples = acp_json_member(gauge, "samples");
	acp_metrics_head(out, name, "gauge", acp_json_string(gauge, "help"));
	for (size_t i = 0; i < json_object_array_length(samples); i++) {
		struct json_object *sample = json_object_array_get_idx(samples, i);
		const char *labels = acp_json_string(sample, "labels");
		acp_buf_puts(out, name);
		if (labels)
			acp_buf_printf(out, "{%s}", labels);
		acp_buf_putc(out, ' ');
		acp_json_write(acp_json_member(sample, "value"), out);
		acp_buf_putc(out, '\n');
	}
}

/* If the database is down, its gauges are missing and acp_db_up is 0. */
static void write_database(const struct acp_control_plane *plane, struct acp_buf *out)
{
	struct json_object *gauges = NULL;
	bool up = plane->upkeep.gauges && plane->upkeep.gauges(plane->self, &gauges) == ACP_OK;
	acp_metrics_head(out, "acp_db_up", "gauge", "1: the database answers; 0: it does not.");
	acp_buf_printf(out, "acp_db_up %d\n", up);
	for (size_t i = 0; up && i < json_object_array_length(gauges); i++)
		write_gauge(json_object_array_get_idx(gauges, i), out);
	json_object_put(gauges);
}

/* The endpoint ------------------------------------------------------------------------------------------------ */

/* local: only requests from this host. Behind a proxy on this host every request may come from 127.0.0.1, so a
 * forwarded request never counts as local. */
static bool may_read(const struct acp_config *config, const struct acp_http *http)
{
	if (strcmp(config->metrics, "local") != 0)
		return true; /* on; with off, kernel->metrics is NULL */
	return !http->forwarded && (strncmp(http->address, "127.", 4) == 0 || strcmp(http->address, "::1") == 0 ||
				    strncmp(http->address, "::ffff:127.", 11) == 0);
}

void acp_endpoint_metrics(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	struct acp_buf *out = &response->body;
	if (!kernel->metrics || !may_read(kernel->config, http)) {
		acp_http_error(http, ACP_NOT_FOUND,
			       "not available to you; the operator's setting metrics decides who may read this",
			       response);
		return;
	}
	if (!acp_http_require_get(http, response))
		return;
	acp_metrics_head(out, "acp_build_info", "gauge", "Always 1; the labels identify the program.");
	acp_buf_printf(out, "acp_build_info{version=\"%s\",api_version=\"%s\"} 1\n", ACP_VERSION, ACP_API_VERSION);
	acp_metrics_write(kernel->metrics, out);
	write_journal(kernel->config->journal_dir, out);
	write_database(kernel->plane, out);
	if (!acp_buf_ok(out)) {
		acp_buf_clear(out);
		acp_http_error(http, ACP_INTERNAL_ERROR, "", response);
		return;
	}
	response->status = 200;
	response->content_type = "text/plain; version=0.0.4; charset=utf-8";
	response->code = acp_code_name(ACP_OK);
}
