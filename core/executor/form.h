/* form.h - JSON as a form body (application/x-www-form-urlencoded), nested as Stripe's API expects: members of objects
 * as a[b], elements of arrays as a[0]. */
#ifndef ACP_FORM_H
#define ACP_FORM_H

#include "buf.h"

#include <json-c/json.h>

/* Appends the members of an object (NULL: none); null members are left out. Check acp_buf_ok(out) for failure. A number
 * that is not an integer also fails, because no form here has one. */
void acp_form_encode(struct json_object *params, struct acp_buf *out);

#endif
