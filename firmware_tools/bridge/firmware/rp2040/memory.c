#include <string.h>

void *memcpy(void *restrict to, const void *restrict from, size_t count)
{
    unsigned char *at = to;
    const unsigned char *source = from;
    while (count--)
        *at++ = *source++;
    return to;
}

void *memset(void *to, int value, size_t count)
{
    unsigned char *at = to;
    while (count--)
        *at++ = (unsigned char)value;
    return to;
}
