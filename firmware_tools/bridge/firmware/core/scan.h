/* Which sensors are on the bus. */
#ifndef EDGEJOULE_SCAN_H
#define EDGEJOULE_SCAN_H

#include "channel.h"

/* Fills records: those of known addresses first, there or not, then the other sensors found at 40h to 4Fh; one at 40h
 * when there is neither. Returns how many, 1 to 4. Waits for each transfer, 60 ms at most in all. */
uint8_t scan(struct channel *channels);

#endif
