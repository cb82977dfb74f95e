#ifndef EDGEJOULE_RP2040_WATCHDOG_H
#define EDGEJOULE_RP2040_WATCHDOG_H

void watchdog_begin(void);
void watchdog_feed(void);

#endif
