/* The conversation with the sensors: one transfer at a time, the sensors in turn. */
#ifndef EDGEJOULE_SAMPLER_H
#define EDGEJOULE_SAMPLER_H

#include "channel.h"

struct sampler {
    struct channel *channels;
    uint8_t count;
    uint8_t active; /* whose transfer is under way; NOBODY */
    uint8_t turn;   /* who was served last */
    struct channel *read; /* has a sample that is not added yet; adding takes as long as a transfer */
};

enum { NOBODY = 0xFF };

/* Sets a sensor up anew with another configuration; what it was being asked is forgotten. */
void sampler_configure(struct sampler *sampler, uint8_t number, uint16_t config);

/* Takes the answer that came and begins the next transfer. */
void sampler_poll(struct sampler *sampler, uint8_t profile);

/* Microseconds until a step is due, at most limit_us; 0 while something is due. No transfer may be under way. */
uint16_t sampler_idle_us(const struct sampler *sampler, uint16_t limit_us);

/* Each sensor is set up, or cannot be reached. */
bool sampler_settled(const struct sampler *sampler);

#endif
