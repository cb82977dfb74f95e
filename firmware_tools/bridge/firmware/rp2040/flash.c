#include "flash.h"

#include <stddef.h>

#include "regs.h"

enum { WRITE = 0x02, READ = 0x03, STATUS = 0x05, WRITE_ENABLE = 0x06, ERASE_SECTOR = 0x20, UNIQUE_ID = 0x4B };
enum { SR_NOT_FULL = 1 << 1, SR_RECEIVED = 1 << 3 };
enum { AHEAD_MAX = 14 }; /* of the 16 that the receiving queue holds */

void flash_begin(void)
{
    REG(SSI_SSIENR) = 0;
    REG(SSI_BAUDR) = 4;            /* 12 MHz */
    REG(SSI_CTRLR0) = 7u << 16;    /* frames of 8 bits, both ways */
    REG(SSI_SER) = 1;
    REG(SSI_SSIENR) = 1;
}

/* The unit would end the command whenever its queue runs dry, so the line is held by hand (data sheet 4.10.9). */
static void select(bool on)
{
    REG(QSPI_SS_CTRL) = on ? 2u << 8 : 3u << 8;
    (void)REG(QSPI_SS_CTRL);
}

/* head, then count bytes out of out (NULL: zeros) and into in (NULL: nowhere). */
static void transfer(const uint8_t *head, uint32_t head_count, const uint8_t *out, uint8_t *in, uint32_t count)
{
    uint32_t sent = 0, received = 0, total = head_count + count;
    select(true);
    while (received < total) {
        uint32_t status = REG(SSI_SR);
        if (sent < total && sent - received < AHEAD_MAX && (status & SR_NOT_FULL)) {
            REG(SSI_DR0) = sent < head_count ? head[sent] : out ? out[sent - head_count] : 0;
            sent++;
        }
        if (status & SR_RECEIVED) {
            uint8_t byte = (uint8_t)REG(SSI_DR0);
            if (in && received >= head_count)
                in[received - head_count] = byte;
            received++;
        }
    }
    select(false);
}

static void addressed(uint8_t command, uint32_t at, const uint8_t *out, uint8_t *in, uint32_t count)
{
    const uint8_t head[4] = {command, (uint8_t)(at >> 16), (uint8_t)(at >> 8), (uint8_t)at};
    transfer(head, sizeof head, out, in, count);
}

static void enable_write(void)
{
    const uint8_t command = WRITE_ENABLE;
    transfer(&command, 1, NULL, NULL, 0);
}

void flash_read(uint32_t at, uint8_t *bytes, uint32_t count)
{
    addressed(READ, at, NULL, bytes, count);
}

void flash_uid(uint8_t uid[8])
{
    const uint8_t head[5] = {UNIQUE_ID};
    transfer(head, sizeof head, NULL, uid, 8);
}

bool flash_busy(void)
{
    const uint8_t command = STATUS;
    uint8_t status;
    transfer(&command, 1, NULL, &status, 1);
    return status & 1;
}

void flash_erase_sector(uint32_t at)
{
    enable_write();
    addressed(ERASE_SECTOR, at, NULL, NULL, 0);
}

void flash_program(uint32_t at, const uint8_t *bytes, uint32_t count)
{
    enable_write();
    addressed(WRITE, at, bytes, NULL, count);
}
