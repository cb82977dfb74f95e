/* Byte rings between an interrupt and the main loop: one side puts, the other takes. 256 bytes, so that the indices
 * wrap by themselves and are read in one instruction. */
#ifndef EDGEJOULE_QUEUE_H
#define EDGEJOULE_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

enum { TX_SIZE = 256, RX_SIZE = 64 };

struct tx_queue {
    uint8_t bytes[TX_SIZE];
    volatile uint8_t head; /* next to be put */
    volatile uint8_t tail; /* next to be sent */
};

struct rx_queue {
    uint8_t bytes[RX_SIZE];
    volatile uint8_t head;
    volatile uint8_t tail;
    volatile uint8_t overruns;
};

extern struct tx_queue tx_queue;
extern struct rx_queue rx_queue;

static inline uint8_t tx_used(void)
{
    return (uint8_t)(tx_queue.head - tx_queue.tail);
}

static inline uint8_t tx_free(void)
{
    return (uint8_t)(TX_SIZE - 1 - tx_used());
}

static inline bool tx_take(uint8_t *byte)
{
    uint8_t tail = tx_queue.tail;
    if (tail == tx_queue.head)
        return false;
    *byte = tx_queue.bytes[tail];
    tx_queue.tail = (uint8_t)(tail + 1);
    return true;
}

static inline void rx_put(uint8_t byte)
{
    uint8_t head = rx_queue.head;
    uint8_t next = (uint8_t)((head + 1) & (RX_SIZE - 1));
    if (next == rx_queue.tail) {
        if (rx_queue.overruns != 0xFF)
            rx_queue.overruns++;
        return;
    }
    rx_queue.bytes[head] = byte;
    rx_queue.head = next;
}

static inline bool rx_take(uint8_t *byte)
{
    uint8_t tail = rx_queue.tail;
    if (tail == rx_queue.head)
        return false;
    *byte = rx_queue.bytes[tail];
    rx_queue.tail = (uint8_t)((tail + 1) & (RX_SIZE - 1));
    return true;
}

#endif
