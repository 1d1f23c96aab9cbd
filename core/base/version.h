/* version.h - versions that clients and migrations see. ACP_VERSION itself comes from configure. */
#ifndef ACP_VERSION_H
#define ACP_VERSION_H

#define ACP_API_VERSION "v1"
#define ACP_CONTRACT_VERSION "2026-11-22" /* version of the forms of requests and replies */
#ifndef ACP_VERSION
#define ACP_VERSION "unreleased"
#endif

#endif
