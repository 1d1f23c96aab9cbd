/* attr.h - compiler attributes, and the list of functions that this project does not use.
 *
 * Every .c file of the project includes this header first, through the header of its own module. */
#ifndef ACP_ATTR_H
#define ACP_ATTR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define ACP_MUSTCHECK __attribute__((warn_unused_result))
#define ACP_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#define ACP_NONNULL __attribute__((nonnull))
#define ACP_UNUSED __attribute__((unused))
#else
#define ACP_MUSTCHECK
#define ACP_PRINTF(fmt, first)
#define ACP_NONNULL
#define ACP_UNUSED
#endif

/* Number of elements of an array (not of a pointer). */
#define ACP_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Not used here: they are unbounded, depend on the locale, are not thread-safe or fail silently on bad input:
 * strcpy strcat sprintf vsprintf gets strtok atoi atol atof alloca localtime gmtime asctime ctime rand.
 * tests/check_source refuses them. (A #pragma poison would hit the headers of other libraries.) */

#endif
