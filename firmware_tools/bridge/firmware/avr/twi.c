/* The two-wire unit, driven by its interrupt, at 400 kHz: one sensor's register written or read, or its result taken. */
#include "twi.h"

#include <avr/interrupt.h>
#include <avr/io.h>
#include <util/atomic.h>
#include <util/delay.h>
#include <util/twi.h>

#include "../core/hal.h"
#include "../core/ina219.h"
#include "clock.h"
#include "pins.h"

enum { TIMEOUT_US = 3000 }; /* the longest transfer takes 0.45 ms */

static struct {
    uint8_t address; /* shifted, write bit clear */
    uint8_t out[3];
    uint8_t out_count;
    uint8_t in[6];
    uint8_t in_at;
    uint8_t in_count;
    uint8_t at;
    bool polls;
    volatile uint8_t status;
    uint16_t began; /* of timer 1; the main loop looks more often than it wraps */
    volatile uint16_t ended; /* of timer 1 */
} job;

#define GO (_BV(TWINT) | _BV(TWEN) | _BV(TWIE))

void twi_begin(void)
{
    PORTC &= (uint8_t)~(_BV(PC4) | _BV(PC5));
    TWSR = 0;
    TWBR = (uint8_t)((F_CPU / I2C_HZ - 16) / 2);
    TWCR = _BV(TWEN);
    job.status = I2C_OK;
}

/* A sensor that was cut off in the middle of a byte holds SDA until it has seen its clocks (UM10204, 3.1.16). */
static void recover(void)
{
    TWCR = 0;
    for (uint8_t i = 0; i < 9; i++) {
        SCL_LOW();
        _delay_us(5);
        SCL_HIGH();
        _delay_us(5);
    }
    SDA_LOW(); /* STOP: SDA rises while SCL is high */
    _delay_us(5);
    SDA_HIGH();
    _delay_us(5);
    TWCR = _BV(TWEN);
}

static void start(void)
{
    /* The STOP of the transfer before may still be on its way; a START now would be lost. It takes 3 us. */
    for (uint8_t i = 0; (TWCR & _BV(TWSTO)) && i < 100; i++)
        ;
    ATOMIC_BLOCK(ATOMIC_RESTORESTATE)
    {
        job.began = TCNT1;
        OCR1A = (uint16_t)(job.began + 2 * TIMEOUT_US + 20); /* wakes the processor if it does not end */
    }
    job.at = job.in_at = 0;
    job.status = I2C_BUSY;
    TWCR = GO | _BV(TWSTA);
}

void hal_i2c_write(uint8_t address, uint8_t reg, uint16_t value)
{
    job.address = (uint8_t)(address << 1);
    job.out[0] = reg;
    job.out[1] = (uint8_t)(value >> 8);
    job.out[2] = (uint8_t)value;
    job.out_count = 3;
    job.in_count = 0;
    start();
}

static void read(uint8_t address, uint8_t reg, uint8_t out_count, uint8_t in_count)
{
    job.address = (uint8_t)(address << 1);
    job.out[0] = reg;
    job.out_count = out_count;
    job.in_count = in_count;
    start();
}

void hal_i2c_read(uint8_t address, uint8_t reg)
{
    job.polls = false;
    read(address, reg, 1, 2);
}

void hal_i2c_poll(uint8_t address, bool set_pointer, bool clear)
{
    job.polls = true;
    read(address, INA_BUS, set_pointer ? 1 : 0, clear ? 6 : 4);
}

uint8_t hal_i2c_status(void)
{
    uint8_t status = job.status;
    if (status != I2C_BUSY)
        return status;
    uint16_t now;
    ATOMIC_BLOCK(ATOMIC_RESTORESTATE) now = TCNT1;
    if ((uint16_t)(now - job.began) <= 2 * TIMEOUT_US || job.status != I2C_BUSY)
        return I2C_BUSY;
    recover();
    ATOMIC_BLOCK(ATOMIC_RESTORESTATE) job.ended = TCNT1;
    job.status = I2C_TIMEOUT;
    return I2C_TIMEOUT;
}

uint16_t hal_i2c_word(void)
{
    return (uint16_t)(job.in[0] << 8 | job.in[1]);
}

uint16_t hal_i2c_shunt(void)
{
    return (uint16_t)(job.in[2] << 8 | job.in[3]);
}

uint32_t hal_i2c_ended(void)
{
    uint16_t count;
    uint32_t now;
    ATOMIC_BLOCK(ATOMIC_RESTORESTATE)
    {
        count = TCNT1;
        now = clock_ticks_in_interrupt();
    }
    return now - (uint16_t)(count - job.ended) / 2;
}

#define STOP (_BV(TWINT) | _BV(TWEN) | _BV(TWSTO))

/* Nothing here may call a function: the bus waits while registers are saved for it. */
ISR(TWI_vect)
{
    uint8_t status = TW_STATUS;
    switch (status) {
    case TW_START:
    case TW_REP_START:
        TWDR = (uint8_t)(job.address | (job.at == job.out_count && job.in_count ? TW_READ : TW_WRITE));
        TWCR = GO;
        return;
    case TW_MT_SLA_ACK:
    case TW_MT_DATA_ACK:
        if (job.at < job.out_count) {
            TWDR = job.out[job.at++];
            TWCR = GO;
            return;
        }
        if (job.in_count) {
            TWCR = GO | _BV(TWSTA);
            return;
        }
        status = I2C_OK;
        break;
    case TW_MR_SLA_ACK:
        TWCR = GO | _BV(TWEA);
        return;
    case TW_MR_DATA_ACK:
        job.in[job.in_at++] = TWDR;
        TWCR = GO;
        return;
    case TW_MR_DATA_NACK: {
        uint8_t low = TWDR;
        job.in[job.in_at++] = low;
        if (!job.polls || job.in_at == 2)
            job.ended = TCNT1;
        if (job.in_at < job.in_count && (job.in_at > 2 || (low & INA_READY))) {
            /* Sets the pointer to the next register: shunt, then power. */
            job.out[0] = job.in_at == 2 ? INA_SHUNT : INA_POWER;
            job.out_count = 1;
            job.at = 0;
            TWCR = GO | _BV(TWSTA);
            return;
        }
        TWCR = STOP;
        job.status = I2C_OK;
        return;
    }
    default: /* an address or data byte was not acknowledged, arbitration was lost, or a bus error */
        break;
    }
    job.ended = TCNT1;
    TWCR = status == TW_MT_ARB_LOST ? _BV(TWINT) | _BV(TWEN) : STOP;
    job.status = status;
}
