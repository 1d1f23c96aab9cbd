/* Seals, row texts and chains, without a database. */
#include "../tmain.h"

#include "proof.h"

static const char text_a[] =
	"(11111111-1111-4111-8111-111111111111,22222222-2222-4222-8222-222222222222,\"2026-11-22 12:00:00.5\","
	"33333333-3333-4333-8333-333333333333,acp-fcgi,domain.x,x.y,api_key,ock_abc,,,success,,"
	"\"a \"\"b\"\", \\\\c)\",\"{\"\"n\"\": 1.50}\",0.25,127.0.0.1,\"\",f,,,t,row,40,free)";

static bool parses(const char *text)
{
	struct acp_row row = {0};
	bool ok = acp_row_parse(&row, text, strlen(text));
	acp_row_release(&row);
	return ok;
}

static void test_row(void)
{
	struct acp_row row = {0};
	CU_ASSERT_TRUE_FATAL(acp_row_parse(&row, text_a, sizeof text_a - 1));
	CU_ASSERT_STRING_EQUAL(row.field[ACP_AT_event_id], "11111111-1111-4111-8111-111111111111");
	CU_ASSERT_STRING_EQUAL(row.field[ACP_AT_ts], "2026-11-22 12:00:00.5");
	CU_ASSERT_STRING_EQUAL(row.field[13], "a \"b\", \\c)");
	CU_ASSERT_STRING_EQUAL(row.field[14], "{\"n\": 1.50}");
	CU_ASSERT_PTR_NULL(row.field[12]);
	CU_ASSERT_STRING_EQUAL(row.field[17], ""); /* empty is not null */
	CU_ASSERT_STRING_EQUAL(row.field[24], "free");
	acp_row_release(&row);
}

/* A literal of so many fields, all of them null. */
static bool parses_fields(int count)
{
	char text[ACP_FIELDS + 8] = "(";
	memset(text + 1, ',', (size_t)count - 1);
	text[count] = ')';
	return parses(text);
}

static void test_row_broken(void)
{
	char cut[sizeof text_a];
	for (size_t len = 0; len < sizeof text_a - 1; len++) {
		snprintf(cut, sizeof cut, "%.*s", (int)len, text_a);
		CU_ASSERT_FALSE(parses(cut));
	}
	CU_ASSERT_FALSE(parses_fields(ACP_FIELDS_OF_10 - 1));
	CU_ASSERT_TRUE(parses_fields(ACP_FIELDS_OF_10));
	CU_ASSERT_TRUE(parses_fields(ACP_FIELDS));
	CU_ASSERT_FALSE(parses_fields(ACP_FIELDS + 1));
	CU_ASSERT_FALSE(parses("(,,,,,,,,,,,,,,,,,,,,,,,,) "));
	CU_ASSERT_FALSE(parses("(,,,,,,,,,,,,,,,,,,,,,,,,\"x)"));
}

static void test_line(void)
{
	struct acp_row row = {0};
	struct acp_buf line;
	struct acp_chain_link link = {.chain = 3, .seq = 17, .text = text_a, .len = sizeof text_a - 1};
	acp_buf_init(&line, 65536);
	CU_ASSERT_TRUE_FATAL(acp_row_parse(&row, text_a, sizeof text_a - 1));
	acp_row_line(&row, &link, NULL, &line);
	CU_ASSERT_PTR_NOT_NULL(strstr(line.ptr, "\"ts\":\"2026-11-22T12:00:00.5Z\","));
	CU_ASSERT_PTR_NOT_NULL(strstr(line.ptr, "\"api_key_id\":null,"));
	CU_ASSERT_PTR_NOT_NULL(strstr(line.ptr, "\"result_meta\":{\"n\": 1.50},\"latency_ms\":0.25,"));
	CU_ASSERT_PTR_NOT_NULL(strstr(line.ptr, "\"dry_run\":false,"));
	CU_ASSERT_PTR_NOT_NULL(strstr(line.ptr, "\"chain_id\":3,\"chain_seq\":17,\"chain_hash\":\"0000"));
	CU_ASSERT_PTR_NULL(strstr(line.ptr, "\"before\""));
	acp_buf_release(&line);
	acp_row_release(&row);
}

/* Chains --------------------------------------------------------------------------------------------------------- */

enum { ROWS = 8 };

static struct acp_chain_link links[ROWS + 1];
static char texts[ROWS + 1][128];
static char findings[2048];

/* Appends "KIND SEQ[*]; ". The star means that the finding names a row. */
static void note(void *arg, const struct acp_finding *finding)
{
	size_t len = strlen(findings);
	(void)arg;
	snprintf(findings + len, sizeof findings - len, "%s %lld%s; ", finding->kind, (long long)finding->seq,
		 finding->event_id && *finding->event_id ? "*" : "");
}

static void rehash(struct acp_chain_link *link, const uint8_t before[ACP_SHA256_LEN])
{
	struct acp_hasher *hasher = acp_hasher_new();
	acp_hasher_add(hasher, before, ACP_SHA256_LEN);
	acp_hasher_add(hasher, link->text, link->len);
	acp_hasher_end(hasher, link->hash);
	acp_hasher_free(hasher);
}

/* links[1] to links[ROWS]: a good chain. */
static void make_chain(void)
{
	memset(links, 0, sizeof links);
	for (int i = 1; i <= ROWS; i++) {
		int len = snprintf(texts[i], sizeof texts[i], "(e%d,,ts,tenant,,,,,,,,,,,,,,,,,,,,,)", i);
		links[i] = (struct acp_chain_link){.chain = 1, .seq = i, .text = texts[i], .len = (size_t)len};
		rehash(&links[i], links[i - 1].hash);
	}
}

static struct acp_head head_at(int seq)
{
	struct acp_head head = {.chain = 1, .seq = seq};
	memcpy(head.hash, links[seq].hash, sizeof head.hash);
	return head;
}

static struct acp_chain_check *begin(bool partly)
{
	*findings = '\0';
	return acp_chain_check_new(partly, note, NULL);
}

static void expect(struct acp_chain_check *check, const char *wanted)
{
	acp_chain_end(check);
	CU_ASSERT_STRING_EQUAL(findings, wanted);
	if (strcmp(findings, wanted) != 0)
		printf("\nfindings: %s\n", findings);
	acp_chain_check_free(check);
}

/* Checks all rows except this one (0: all rows), and the end of the chain. */
static void check_rows(int without, const char *wanted, struct acp_head end)
{
	struct acp_chain_check *check = begin(false);
	for (int i = 1; i <= ROWS; i++)
		if (i != without)
			acp_chain_row(check, &links[i]);
	acp_chain_head(check, &end);
	expect(check, wanted);
}

static void test_good_chain(void)
{
	make_chain();
	check_rows(0, "", head_at(ROWS));
}

static void test_altered(void)
{
	for (int i = 1; i <= ROWS; i++) {
		char wanted[32];
		make_chain();
		struct acp_head end = head_at(ROWS);
		texts[i][1] = 'f';
		snprintf(wanted, sizeof wanted, "altered %d*; ", i);
		check_rows(0, wanted, end);
		make_chain();
		links[i].hash[7] ^= 1;
		check_rows(0, wanted, end);
	}
}

static void test_removed(void)
{
	make_chain();
	check_rows(1, "removed 1; ", head_at(ROWS));
	check_rows(4, "removed 4; ", head_at(ROWS));
	check_rows(ROWS, "cut_off 7; ", head_at(ROWS));
}

static void test_inserted(void)
{
	struct acp_chain_link forged = {.chain = 1, .seq = 4, .text = "(e9,,,,,,,,,,,,,,,,,,,,,,,,)", .len = 28};
	for (int first = 0; first < 2; first++) {
		make_chain();
		struct acp_chain_check *check = begin(false);
		struct acp_head end = head_at(ROWS);
		for (int i = 1; i <= ROWS; i++) {
			if (i == 4 && first)
				acp_chain_row(check, &forged);
			acp_chain_row(check, &links[i]);
			if (i == 4 && !first)
				acp_chain_row(check, &forged);
		}
		acp_chain_head(check, &end);
		expect(check, "inserted 4*; ");
	}
	struct acp_chain_check *check = begin(false);
	acp_chain_row(check, &(struct acp_chain_link){.text = "(e9,,,,,,,,,,,,,,,,,,,,,,,,)", .len = 28});
	expect(check, "misplaced 0*; ");
}

/* The chain_seq of a row is changed to that of the next row. The finding depends on which of them comes first. */
static void test_moved(void)
{
	for (int first = 0; first < 2; first++) {
		make_chain();
		struct acp_head end = head_at(ROWS);
		struct acp_chain_check *check = begin(false);
		links[4].seq = 5;
		for (int i = 1; i <= ROWS; i++)
			acp_chain_row(check, &links[first && (i == 4 || i == 5) ? 9 - i : i]);
		acp_chain_head(check, &end);
		expect(check, first ? "removed 4; altered 5*; " : "altered 5*; ");
	}
	make_chain();
	links[4].seq = 2;
	struct acp_head end = head_at(ROWS);
	struct acp_chain_check *check = begin(false);
	static const int order[] = {1, 2, 4, 3, 5, 6, 7, 8};
	for (int i = 0; i < ROWS; i++)
		acp_chain_row(check, &links[order[i]]);
	acp_chain_head(check, &end);
	expect(check, "inserted 2*; removed 4; ");
}

static void test_beyond_the_end(void)
{
	make_chain();
	struct acp_chain_check *check = begin(false);
	struct acp_head end = head_at(6);
	for (int i = 1; i <= ROWS; i++) {
		acp_chain_row(check, &links[i]);
		if (i == 6)
			acp_chain_head(check, &end);
	}
	expect(check, "inserted 7*; ");
}

static void test_chain_unknown(void)
{
	make_chain();
	struct acp_chain_check *check = begin(false);
	for (int i = 1; i <= ROWS; i++)
		acp_chain_row(check, &links[i]);
	expect(check, "inserted 1*; ");
	struct acp_head sealed = head_at(3);
	check = begin(false);
	for (int i = 1; i <= ROWS; i++)
		acp_chain_row(check, &links[i]);
	acp_chain_sealed(check, &sealed, 1);
	expect(check, "removed 8; ");
}

/* If somebody rewrites the rows from the fifth on, and everything derived from them, only a seal can detect it. */
static void test_rewritten(void)
{
	make_chain();
	struct acp_head seals[] = {head_at(4), head_at(6), head_at(7)};
	texts[5][1] = 'f';
	for (int i = 5; i <= ROWS; i++)
		rehash(&links[i], links[i - 1].hash);
	check_rows(0, "", head_at(ROWS));
	struct acp_chain_check *check = begin(false);
	struct acp_head end = head_at(ROWS);
	for (int i = 1; i <= ROWS; i++) {
		acp_chain_row(check, &links[i]);
		for (int n = 0; n < 3; n++)
			if (seals[n].seq == i)
				acp_chain_sealed(check, &seals[n], n + 1);
	}
	acp_chain_head(check, &end);
	expect(check, "rewritten 6; ");
}

static void test_tail_removed_with_its_end(void)
{
	make_chain();
	struct acp_chain_check *check = begin(false);
	struct acp_head seal = head_at(7);
	struct acp_head end = head_at(5);
	for (int i = 1; i <= 5; i++)
		acp_chain_row(check, &links[i]);
	acp_chain_head(check, &end);
	acp_chain_sealed(check, &seal, 1);
	expect(check, "cut_off 5; ");
}

static void test_end_altered(void)
{
	make_chain();
	struct acp_head end = head_at(ROWS);
	end.hash[0] ^= 1;
	check_rows(0, "rewritten 8; ", end);
}

static void test_archived(void)
{
	make_chain();
	struct acp_chain_check *check = begin(false);
	struct acp_head gone = head_at(4);
	struct acp_head end = head_at(ROWS);
	acp_chain_row(check, &links[1]);
	acp_chain_archived(check, &gone, 2);
	for (int i = 5; i <= ROWS; i++)
		acp_chain_row(check, &links[i]);
	acp_chain_head(check, &end);
	CU_ASSERT_EQUAL(acp_chain_counts(check).archived, 3);
	expect(check, "");
	check = begin(false);
	gone.hash[0] ^= 1;
	acp_chain_row(check, &links[1]);
	acp_chain_archived(check, &gone, 2);
	acp_chain_row(check, &links[5]);
	acp_chain_head(check, &(struct acp_head){.chain = 1, .seq = 5});
	expect(check, "altered 5*; rewritten 5; ");
	check = begin(false);
	gone = head_at(4);
	acp_chain_archived(check, &gone, 2);
	acp_chain_head(check, &gone);
	expect(check, "removed 1; ");
}

static void test_part_of_a_chain(void)
{
	make_chain();
	struct acp_chain_check *check = begin(true);
	for (int i = 3; i <= 6; i++)
		acp_chain_row(check, &links[i]);
	expect(check, "");
	check = begin(true);
	links[3].has_before = true;
	memcpy(links[3].before, links[2].hash, ACP_SHA256_LEN);
	texts[3][1] = 'f';
	acp_chain_row(check, &links[3]);
	acp_chain_row(check, &links[4]);
	acp_chain_row(check, &links[6]);
	expect(check, "altered 3*; removed 5; ");
}

/* Seals ---------------------------------------------------------------------------------------------------------- */

static const char zeros[] = "0000000000000000000000000000000000000000000000000000000000000000";
static const char heads[] = "1 3 1111111111111111111111111111111111111111111111111111111111111111\n"
			    "2 4 2222222222222222222222222222222222222222222222222222222222222222";
static char hashes[3][ACP_SHA256_HEX], signatures[3][ACP_SHA256_HEX];

static struct acp_seal seal(int id)
{
	struct acp_buf text;
	uint8_t digest[ACP_SHA256_LEN];
	struct acp_seal made = {.id = id,
				.rows = 7,
				.at = "2026-11-22T12:00:00.000000Z",
				.previous = id == 1 ? zeros : hashes[id - 1],
				.heads = heads,
				.hash = hashes[id],
				.signature = signatures[id]};
	acp_buf_init(&text, 65536);
	acp_seal_text(&made, &text);
	acp_sha256(text.ptr, text.len, digest);
	acp_hex(digest, sizeof digest, hashes[id]);
	acp_subkey_hex("pepper", ACP_FOR_AUDIT_SEAL, text.ptr, text.len, signatures[id]);
	acp_buf_release(&text);
	return made;
}

static void expect_seals(const struct acp_seal *one, const struct acp_seal *two, const char *pepper, const char *wanted)
{
	char why[256] = "";
	struct acp_seal_check check = {.pepper = pepper};
	bool ok = acp_seal_ok(&check, one, why, sizeof why) && acp_seal_ok(&check, two, why, sizeof why);
	CU_ASSERT_EQUAL(ok, *wanted == '\0');
	CU_ASSERT_PTR_NOT_NULL(strstr(why, wanted));
}

static void test_seals(void)
{
	struct acp_seal one = seal(1);
	struct acp_seal two = seal(2);
	expect_seals(&one, &two, "pepper", "");
	expect_seals(&one, &two, "", "");
	expect_seals(&one, &two, "other", "seal 1: it is forged");
	expect_seals(&two, &one, "pepper", "seal 1 is missing");
	struct acp_seal changed = two;
	changed.at = "2026-11-22T12:00:00.000001Z";
	expect_seals(&one, &changed, "pepper", "seal 2: it was altered");
	changed = two;
	changed.rows = 8;
	expect_seals(&one, &changed, "pepper", "seal 2: its number of rows");
	changed = two;
	changed.signature = signatures[1];
	expect_seals(&one, &changed, "pepper", "seal 2: it is forged");
	expect_seals(&one, &changed, "", "");
}

const char *const acp_suite_name = "proof";

CU_TestInfo acp_tests[] = {
	{"row", test_row},
	{"row_broken", test_row_broken},
	{"line", test_line},
	{"good_chain", test_good_chain},
	{"altered", test_altered},
	{"removed", test_removed},
	{"inserted", test_inserted},
	{"moved", test_moved},
	{"beyond_the_end", test_beyond_the_end},
	{"chain_unknown", test_chain_unknown},
	{"rewritten", test_rewritten},
	{"tail_removed_with_its_end", test_tail_removed_with_its_end},
	{"end_altered", test_end_altered},
	{"archived", test_archived},
	{"part_of_a_chain", test_part_of_a_chain},
	{"seals", test_seals},
	CU_TEST_INFO_NULL,
};
