#ifndef EDGEJOULE_TWI_H
#define EDGEJOULE_TWI_H

void twi_begin(void);

#endif
