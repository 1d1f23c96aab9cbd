/* GET /console - the page on which a tenant sees and manages its own data, and operators see everything. Its files are
 * in fcgi/console/ and embedded at build time (fcgi/console/embed). The page is the same for everybody and contains no
 * data: the data comes from /api/… and /console/operator/…, with the visitor's key or link. */
#include "endpoints.h"

#include "console_files.h"

/* The page may run only these scripts and this style, connect only to this server, and not be framed by other pages. */
static const char page_headers[] =
	"Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
	"img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
	"require-trusted-types-for 'script'; trusted-types 'none'\r\n"
	"Referrer-Policy: no-referrer\r\nCross-Origin-Opener-Policy: same-origin\r\n"
	"Cross-Origin-Resource-Policy: same-origin\r\nX-Frame-Options: DENY\r\n";
static const char part_headers[] = "Cross-Origin-Resource-Policy: same-origin\r\n";

/* The page refers to its parts by URLs that include their version, so a part never changes. */
static const char for_ever[] = "public, max-age=31536000, immutable";

static const struct {
	const char *path, *type;
	const unsigned char *bytes;
	size_t len;
	const char *headers, *cache;
} files[] = {
	{"/console", "text/html; charset=utf-8", index_html, sizeof index_html, page_headers, "no-cache"},
	{"/console/console.css", "text/css; charset=utf-8", console_css, sizeof console_css, part_headers, for_ever},
	{"/console/parts.js", "text/javascript; charset=utf-8", parts_js, sizeof parts_js, part_headers, for_ever},
	{"/console/console.js", "text/javascript; charset=utf-8", console_js, sizeof console_js, part_headers,
	 for_ever},
	{"/console/operator.js", "text/javascript; charset=utf-8", operator_js, sizeof operator_js, part_headers,
	 for_ever},
};

void acp_endpoint_console(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	for (size_t i = 0; i < ACP_COUNT(files); i++) {
		if (strcmp(http->path, files[i].path) != 0)
			continue;
		if (!acp_http_require_get(http, response))
			return;
		acp_buf_add(&response->body, files[i].bytes, files[i].len);
		response->status = 200;
		response->content_type = files[i].type;
		response->headers = files[i].headers;
		response->cache = files[i].cache;
		response->code = acp_code_name(ACP_OK);
		return;
	}
	acp_http_nothing(http, kernel->config, "no such path; the console is at %/console", response);
}
