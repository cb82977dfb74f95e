/* The part of the standard library that the core uses; there is none for this board. */
#ifndef EDGEJOULE_RP2040_STRING_H
#define EDGEJOULE_RP2040_STRING_H

#include <stddef.h>

void *memcpy(void *restrict to, const void *restrict from, size_t count);
void *memset(void *to, int value, size_t count);

#endif
