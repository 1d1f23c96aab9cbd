-- breaking: no
-- 0014 approvals: an approval is used up before its call runs, in a commit of its own, and given back if nothing was done
-- (acp.approval_use, acp.approval_give_back, acp.settle_doubt). The functions change; the tables do not. The number tells
-- a program of this version that it must not start on the functions before.

SET LOCAL ROLE acp_owner;

COMMENT ON COLUMN acp.approvals.status IS 'pending -> approved or rejected; approved -> used when its call begins; back to approved if that call did nothing.';
COMMENT ON COLUMN acp.approvals.used_by IS 'event_id of the call that it let through.';
