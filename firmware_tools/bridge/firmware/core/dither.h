/* A rhythm of conversions that no periodic load can follow: conversions are restarted after a random pause, with a
 * random resolution of the bus voltage. The figures behind it are in the README of this folder. */
#ifndef EDGEJOULE_DITHER_H
#define EDGEJOULE_DITHER_H

#include <stdbool.h>
#include <stdint.h>

struct dither {
    uint32_t random;
    uint16_t pause_us; /* pauses are evenly spread from 0 to this */
    bool grouped;      /* restarts come after 16 to 47 samples, not after each */
    uint8_t bus_code;  /* resolution of the bus voltage now; drawn anew at one restart of eight */
    uint8_t left;      /* samples until the next */
};

/* The same sequence after each boot, another for each sensor. */
void dither_seed(struct dither *dither, uint8_t sensor);

/* Fits the rhythm to a setting. */
void dither_fit(struct dither *dither, uint16_t config);

/* The next sample is the last before a restart. */
bool dither_ends_group(const struct dither *dither);

/* After a sample: whether conversions start anew now; if so the pause before, and the configuration to write. */
bool dither_restart(struct dither *dither, uint16_t config, uint16_t *pause_us, uint16_t *written);

#endif
