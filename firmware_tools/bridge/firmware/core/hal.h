/* What the core asks of a board. Every function returns at once; none allocates.
 *
 * Ticks are microseconds since boot. Differences of 32-bit ticks are taken modulo 2^32, so they hold for 35 minutes
 * either way. */
#ifndef EDGEJOULE_HAL_H
#define EDGEJOULE_HAL_H

#include <stdbool.h>
#include <stdint.h>

/* Answers of hal_i2c_status: 0, busy, the status of the two-wire unit at the failure, or one of the last three. */
enum {
    I2C_OK = 0x00,
    I2C_BUSY = 0x01,
    I2C_ADDRESS_NACK = 0x20,
    I2C_ADDRESS_NACK_READ = 0x48,
    I2C_MISMATCH = 0xFC, /* a register does not hold what was written */
    I2C_TIMEOUT = 0xFD,  /* a transfer did not end; the bus was recovered with 9 clocks */
    I2C_NO_RESULT = 0xFE /* the sensor answers, but no conversion ends */
};

/* What to do after a REBOOT. */
enum restart { RESTART_NOW, RESTART_BY_WATCHDOG, RESTART_IN_BOOTLOADER };

struct marker_edge {
    uint64_t tick;
    uint16_t seq;
    uint8_t level;
};

uint64_t hal_now(void);
uint32_t hal_ticks(void); /* low half of hal_now */

/* One transfer at a time. */
void hal_i2c_write(uint8_t address, uint8_t reg, uint16_t value);
void hal_i2c_read(uint8_t address, uint8_t reg);

/* Reads the bus register of an INA219; if it says that a result is ready, the shunt register too, and, to clear the sign
 * for the next one, the power register. One transfer, without a pause for the processor: the shortest conversions leave
 * no time for three. Without set_pointer the bus register must be the one that was read last. */
void hal_i2c_poll(uint8_t address, bool set_pointer, bool clear);

uint8_t hal_i2c_status(void);
uint16_t hal_i2c_word(void);  /* of the read or the first one that ended */
uint16_t hal_i2c_shunt(void); /* of a poll that found a result */
uint32_t hal_i2c_ended(void); /* tick at which the transfer ended; of a poll: its first read */

void hal_uart_kick(void);       /* there is something in tx_queue */
uint32_t hal_uart_zero_at(void); /* tick at which the last 00 arrived */
uint16_t hal_uart_errors(void); /* framing errors and overruns since boot */

uint8_t hal_eeprom_read(uint16_t at);
bool hal_eeprom_ready(void);
void hal_eeprom_write(uint16_t at, uint8_t value); /* only when ready */

bool hal_marker_take(struct marker_edge *edge);

/* Does not return, except where tests stand in for the board. */
void hal_restart(enum restart how);

/* The image and the board. */
struct board {
    uint8_t board;        /* as in HELLO */
    uint16_t features;    /* bits that this board adds to those of the core */
    uint8_t reset_cause;  /* bits of HELLO */
    uint8_t changed;      /* built from sources other than those of the manifest */
    uint16_t boots;       /* since power was applied */
    bool cold;            /* the count of boots was lost: power had been off */
    uint16_t warm_boot;   /* boot number of the boot before, when not cold */
    uint8_t git[4];
    uint8_t build[8];
    uint8_t default_uid[8];
};
void hal_board(struct board *board);
void hal_keep_boot(uint16_t boot); /* for warm_boot of the next boot */

#endif
