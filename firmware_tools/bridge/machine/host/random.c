/*
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Links libsimavr, which is under the GNU General Public License 3. This folder is shipped as source and compiled
 * on the user's machine; a binary made from it is under that licence as a whole.
 */
/* Seeded random numbers: splitmix64 (Steele, Lea, Flood, OOPSLA 2014) and the polar method for normal ones. */
#include <math.h>

#include "machine.h"

struct random_stream random_stream(uint64_t seed, uint64_t number) {
    struct random_stream stream = {.state = seed * 0x9E3779B97F4A7C15u ^ number * 0xD1B54A32D192ED03u};
    random_bits(&stream);
    return stream;
}

uint64_t random_bits(struct random_stream *stream) {
    uint64_t z = stream->state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

double random_uniform(struct random_stream *stream) { return (double)(random_bits(stream) >> 11) * 0x1p-53; }

double random_normal(struct random_stream *stream) {
    if (stream->has_spare) {
        stream->has_spare = false;
        return stream->spare;
    }
    double u, v, s;
    do {
        u = 2 * random_uniform(stream) - 1;
        v = 2 * random_uniform(stream) - 1;
        s = u * u + v * v;
    } while (s >= 1 || s == 0);
    double scale = sqrt(-2 * log(s) / s);
    stream->has_spare = true;
    stream->spare = v * scale;
    return u * scale;
}

bool random_chance(struct random_stream *stream, double p) { return p > 0 && random_uniform(stream) < p; }
