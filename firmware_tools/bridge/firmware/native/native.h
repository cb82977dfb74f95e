/* What tests call, through ctypes. */
#ifndef EDGEJOULE_NATIVE_H
#define EDGEJOULE_NATIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A board as from the factory: empty EEPROM, no sensor, no power. */
void native_erase(void);

/* Starts the core. Cold: the supply had been off. */
void native_boot(bool cold);

/* Puts a sensor with constant registers on the bus; address 0 takes it away. */
void native_sensor(int number, int address, int shunt, int bus);
void native_brown_out(int number);
void native_absent(int number, bool absent);
void native_stuck(bool stuck);

/* The EEPROM takes this many more writes until the next boot. */
void native_cut_power_after(uint32_t writes);
uint32_t native_eeprom_writes(void);

/* The restart that was asked for (enum restart), or -1. */
int native_restart(void);

void native_marker(int level, int seq);
uint64_t native_now(void);

/* Time passes in which the core does not run. */
void native_skip(uint64_t us);

/* Bytes from the host; how many fitted. */
size_t native_receive(const uint8_t *bytes, size_t count);

/* Lets the core run; bytes that it sent. */
size_t native_run(uint32_t us, uint8_t *out, size_t room);

#endif
