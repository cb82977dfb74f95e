/* I2C 0 at 400 kHz: one sensor's register written or read, or its result taken. The unit keeps a whole transfer in its
 * queue (data sheet 4.3), so that the interrupt comes once, with the STOP. */
#include "i2c.h"

#include "../core/hal.h"
#include "../core/ina219.h"
#include "clock.h"
#include "pins.h"
#include "regs.h"

enum { TIMEOUT_US = 3000 }; /* the longest transfer takes 0.45 ms */
enum { COMMAND_READ = 1 << 8, COMMAND_STOP = 1 << 9, COMMAND_RESTART = 1 << 10 };
enum { INTERRUPT_ABORT = 1 << 6, INTERRUPT_STOP = 1 << 9 };
enum { ABORT_ADDRESS = 1 << 0, ABORT_DATA = 1 << 3, ABORT_ARBITRATION = 1 << 12 };
enum { I2C_DATA_NACK = 0x30, I2C_ARBITRATION_LOST = 0x38 }; /* statuses as the ATmega's two-wire unit counts them */

static struct {
    volatile uint8_t status;
    uint8_t failure;  /* what it becomes with the STOP */
    uint8_t in_count; /* words wanted */
    uint8_t in_at;
    uint16_t in[3];
    bool polls;
    bool clears;
    bool reads_first; /* begins with the address for reading */
    uint32_t began;
    volatile uint32_t ended;
} job;

static void set_up(void)
{
    const uint32_t period = CPU_HZ / I2C_HZ, low = period * 3 / 5;
    REG(I2C_ENABLE) = 0;
    REG(I2C_CON) = 1u << 0 | 2u << 1 | 1u << 5 | 1u << 6 | 1u << 8; /* master alone, fast, restarts */
    REG(I2C_FS_SCL_HCNT) = period - low;
    REG(I2C_FS_SCL_LCNT) = low;
    REG(I2C_FS_SPKLEN) = low / 16;
    REG(I2C_SDA_HOLD) = CPU_HZ / 10000000 * 3 + 1; /* 300 ns past the falling SCL */
    REG(I2C_INTR_MASK) = INTERRUPT_ABORT | INTERRUPT_STOP;
}

static void connect(void)
{
    const uint32_t pad = PAD_INPUT | PAD_SCHMITT | PAD_PULL_UP | PAD_4MA;
    REG(PAD(PIN_SDA)) = REG(PAD(PIN_SCL)) = pad;
    REG(GPIO_CTRL(PIN_SDA)) = FUNCTION_I2C;
    REG(GPIO_CTRL(PIN_SCL)) = FUNCTION_I2C;
}

void i2c_begin(void)
{
    set_up();
    connect();
    job.status = I2C_OK;
    REG(NVIC_ISER) = 1u << IRQ_I2C0;
}

static void drive_low(unsigned pin, bool low)
{
    REG(low ? SIO_GPIO_OE_SET : SIO_GPIO_OE_CLR) = 1u << pin; /* the pull-up raises it */
    clock_wait_us(5);
}

/* A sensor that was cut off in the middle of a byte holds SDA until it has seen its clocks (UM10204, 3.1.16). */
static void recover(void)
{
    SET(RESETS_RESET) = RESET_I2C0;
    REG(SIO_GPIO_OUT_CLR) = REG(SIO_GPIO_OE_CLR) = 1u << PIN_SDA | 1u << PIN_SCL;
    REG(GPIO_CTRL(PIN_SDA)) = FUNCTION_SIO;
    REG(GPIO_CTRL(PIN_SCL)) = FUNCTION_SIO;
    for (unsigned i = 0; i < 9; i++) {
        drive_low(PIN_SCL, true);
        drive_low(PIN_SCL, false);
    }
    drive_low(PIN_SDA, true); /* STOP: SDA rises while SCL is high */
    drive_low(PIN_SDA, false);
    CLEAR(RESETS_RESET) = RESET_I2C0;
    while (!(REG(RESETS_DONE) & RESET_I2C0))
        ;
    set_up();
    connect();
}

static void start(uint8_t address, uint8_t in_count, bool polls)
{
    job.failure = I2C_OK;
    job.in_count = in_count;
    job.in_at = 0;
    job.polls = polls;
    job.reads_first = false;
    job.began = hal_ticks();
    job.status = I2C_BUSY;
    clock_alarm(ALARM_TRANSFER, job.began + TIMEOUT_US + 10); /* wakes the processor if it does not end */
    REG(I2C_ENABLE) = 0; /* the address may only be changed then */
    REG(I2C_TAR) = address;
    REG(I2C_ENABLE) = 1;
}

static void put_word_read(uint32_t restart, uint32_t stop)
{
    REG(I2C_DATA_CMD) = COMMAND_READ | restart;
    REG(I2C_DATA_CMD) = COMMAND_READ | stop;
}

void hal_i2c_write(uint8_t address, uint8_t reg, uint16_t value)
{
    uint32_t before = no_interrupts(); /* the queue must not run dry */
    start(address, 0, false);
    REG(I2C_DATA_CMD) = reg;
    REG(I2C_DATA_CMD) = value >> 8;
    REG(I2C_DATA_CMD) = (value & 0xFFu) | COMMAND_STOP;
    restore_interrupts(before);
}

void hal_i2c_read(uint8_t address, uint8_t reg)
{
    uint32_t before = no_interrupts();
    start(address, 1, false);
    REG(I2C_DATA_CMD) = reg;
    put_word_read(COMMAND_RESTART, COMMAND_STOP);
    restore_interrupts(before);
}

void hal_i2c_poll(uint8_t address, bool set_pointer, bool clear)
{
    uint32_t before = no_interrupts();
    start(address, 1, true);
    job.clears = clear;
    job.reads_first = !set_pointer;
    if (set_pointer)
        REG(I2C_DATA_CMD) = INA_BUS;
    put_word_read(set_pointer ? COMMAND_RESTART : 0, COMMAND_STOP);
    restore_interrupts(before);
}

/* A result is ready: shunt, and the power register to clear the sign for the next. */
static void take_result(void)
{
    job.polls = false;
    job.in_count = job.clears ? 3 : 2;
    REG(I2C_DATA_CMD) = INA_SHUNT;
    put_word_read(COMMAND_RESTART, job.clears ? 0 : COMMAND_STOP);
    if (job.clears) {
        REG(I2C_DATA_CMD) = INA_POWER | COMMAND_RESTART;
        put_word_read(COMMAND_RESTART, COMMAND_STOP);
    }
}

static uint8_t failure_of(uint32_t source)
{
    if (source & ABORT_ADDRESS)
        return job.reads_first ? I2C_ADDRESS_NACK_READ : I2C_ADDRESS_NACK;
    return source & ABORT_DATA ? I2C_DATA_NACK : I2C_ARBITRATION_LOST;
}

void i2c_interrupt(void)
{
    uint32_t pending = REG(I2C_INTR_STAT);
    if (pending & INTERRUPT_ABORT) {
        uint32_t source = REG(I2C_TX_ABRT_SOURCE);
        (void)REG(I2C_CLR_TX_ABRT);
        job.failure = failure_of(source);
        /* Whoever lost the bus sends no STOP. */
        if (source & ABORT_ARBITRATION)
            pending |= INTERRUPT_STOP;
    }
    if (!(pending & INTERRUPT_STOP))
        return;
    (void)REG(I2C_CLR_STOP_DET);
    if (job.status != I2C_BUSY)
        return;
    uint32_t now = hal_ticks();
    while (!job.failure && job.in_at < job.in_count && REG(I2C_RXFLR) >= 2) {
        uint32_t high = REG(I2C_DATA_CMD) & 0xFF;
        job.in[job.in_at++] = (uint16_t)(high << 8 | (REG(I2C_DATA_CMD) & 0xFF));
    }
    if (job.in_at < 2)
        job.ended = now;
    if (!job.failure && job.polls && (job.in[0] & INA_READY))
        take_result();
    else
        job.status = job.failure;
}

uint8_t hal_i2c_status(void)
{
    uint8_t status = job.status;
    if (status != I2C_BUSY || hal_ticks() - job.began <= TIMEOUT_US)
        return status;
    uint32_t before = no_interrupts();
    status = job.status;
    if (status == I2C_BUSY) {
        job.status = status = I2C_TIMEOUT; /* from here on the interrupt leaves it alone */
        job.ended = hal_ticks();
    }
    restore_interrupts(before);
    if (status == I2C_TIMEOUT)
        recover();
    return status;
}

uint16_t hal_i2c_word(void)
{
    return job.in[0];
}

uint16_t hal_i2c_shunt(void)
{
    return job.in[1];
}

uint32_t hal_i2c_ended(void)
{
    return job.ended;
}
