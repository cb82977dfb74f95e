#ifndef EDGEJOULE_RP2040_I2C_H
#define EDGEJOULE_RP2040_I2C_H

void i2c_begin(void);
void i2c_interrupt(void);

#endif
