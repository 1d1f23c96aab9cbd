#include "links.h"

#include "chain_text.h"
#include "columns.h"

/* text: a buffer that is reused for every row. */
static bool link_row(struct acp_buf *text, const struct acp_event *event, const uint8_t *salt, struct acp_link *end)
{
	text->len = 0;
	acp_buf_add(text, (const char *)end->head, sizeof end->head);
	if (!acp_chain_text(text, event, salt))
		return false;
	acp_sha256(text->ptr, text->len, end->head);
	end->seq++;
	return true;
}

static bool add_row(struct acp_buf *out, struct acp_buf *text, const struct acp_event *event, struct acp_link *end)
{
	uint8_t random[ACP_SALT_LEN];
	const uint8_t *salt = acp_event_personal(event) ? random : NULL;
	if (salt)
		acp_random(random, sizeof random);
	return link_row(text, event, salt, end) && acp_columns_row(out, event, end, salt);
}

bool acp_links_write(struct acp_buf *out, const struct acp_event *const *events, size_t count, uint32_t row_type,
		     struct acp_link *end)
{
	struct acp_buf text;
	bool ok = true;
	acp_buf_init(&text, 1 << 20);
	acp_columns_rows_begin(out, row_type, count);
	for (size_t i = 0; ok && i < count; i++)
		ok = add_row(out, &text, events[i], end);
	acp_buf_release(&text);
	return ok && acp_buf_ok(out);
}
