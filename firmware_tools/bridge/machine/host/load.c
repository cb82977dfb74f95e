/*
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Links libsimavr, which is under the GNU General Public License 3. This folder is shipped as source and compiled
 * on the user's machine; a binary made from it is under that licence as a whole.
 */
/*
 * Power over time, linear in pieces, so that energy, and current behind a resistance, have closed forms.
 * The same formulas are in ../loads.py; a test holds one against the other.
 */
#include <math.h>
#include <stdlib.h>

#include "machine.h"

void load_part_finish(struct load_part *part) {
    double sum = 0;
    for (size_t i = 0; i < part->count; i++) {
        struct knot *knot = &part->knots[i];
        knot->before_j = sum;
        double end_s = i + 1 < part->count ? part->knots[i + 1].at_s : part->period_s;
        double span_s = end_s - knot->at_s;
        if (span_s > 0) sum += span_s * (knot->power_w + 0.5 * knot->slope_w * span_s);
    }
    part->period_j = sum;
}

/* The piece that holds at `t_s`, and where the period begins in which it does. */
static const struct knot *piece(const struct load_part *part, double t_s, double *period_begin_s, double *periods) {
    *periods = part->period_s > 0 ? floor(t_s / part->period_s) : 0;
    *period_begin_s = *periods * part->period_s;
    double into_s = t_s - *period_begin_s;
    size_t low = 0, high = part->count;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (part->knots[middle].at_s <= into_s)
            low = middle;
        else
            high = middle;
    }
    return &part->knots[low];
}

static double part_energy_j(const struct load_part *part, double t_s) {
    double begin_s, periods;
    const struct knot *knot = piece(part, t_s, &begin_s, &periods);
    double into_s = t_s - begin_s - knot->at_s;
    return periods * part->period_j + knot->before_j + into_s * (knot->power_w + 0.5 * knot->slope_w * into_s);
}

/* Power and slope at `t_s`, and when the next piece begins. */
static void part_power(const struct load_part *part, double t_s, double *power_w, double *slope_w, double *next_s) {
    double begin_s, periods;
    const struct knot *knot = piece(part, t_s, &begin_s, &periods);
    *power_w += knot->power_w + knot->slope_w * (t_s - begin_s - knot->at_s);
    *slope_w += knot->slope_w;
    double end_s = INFINITY;
    if (knot + 1 < part->knots + part->count)
        end_s = begin_s + knot[1].at_s;
    else if (part->period_s > 0)
        end_s = (periods + 1) * part->period_s;
    if (end_s < *next_s) *next_s = end_s;
}

void rail_append(struct rail *rail, struct load load) {
    rail->loads = realloc(rail->loads, (rail->count + 1) * sizeof load);
    if (!rail->loads) die("no memory for a load");
    rail->loads[rail->count++] = load;
}

double rail_energy_j(const struct rail *rail, double from_s, double to_s) {
    double sum = 0;
    for (size_t i = 0; i < rail->count; i++) {
        const struct load *load = &rail->loads[i];
        double begin_s = fmax(from_s, load->from_s);
        double end_s = i + 1 < rail->count ? fmin(to_s, rail->loads[i + 1].from_s) : to_s;
        if (!(end_s > begin_s)) continue;
        for (size_t p = 0; p < load->count; p++)
            sum += part_energy_j(&load->parts[p], end_s - load->from_s) -
                   part_energy_j(&load->parts[p], begin_s - load->from_s);
    }
    return sum;
}

/*
 * Charge of a constant-power load behind a resistance R: V = V0 - R I and P = V I give I = (V0 - s) / 2R with
 * s = sqrt(V0^2 - 4 R P), or, without the difference of near numbers, I = 2 P / (V0 + s). Where P is linear in time
 * so is s^2, and the mean of s from s0 to s1 is 2/3 (s0^2 + s0 s1 + s1^2) / (s0 + s1); with s = V0 - 2 R I the mean
 * of I follows. A power that the supply cannot give is cut at V0^2 / 4R.
 */
static double walk_charge_c(const struct rail *rail, const struct load *load, double from_s, double to_s) {
    double v0 = rail->supply_v, r = rail->source_ohm, most_w = v0 * v0 / (4 * r), sum = 0, at_s = from_s;
    while (at_s < to_s) {
        double power_w = 0, slope_w = 0, next_s = to_s;
        for (size_t p = 0; p < load->count; p++) part_power(&load->parts[p], at_s, &power_w, &slope_w, &next_s);
        /* A boundary that rounding puts at or before this instant must not stop the walk. */
        if (next_s <= at_s) next_s = nextafter(at_s, INFINITY);
        double span_s = next_s - at_s;
        double p0 = fmin(power_w, most_w), p1 = fmin(power_w + slope_w * span_s, most_w);
        double s0 = sqrt(fmax(0, v0 * v0 - 4 * r * p0)), s1 = sqrt(fmax(0, v0 * v0 - 4 * r * p1));
        double i0 = 2 * p0 / (v0 + s0), i1 = 2 * p1 / (v0 + s1);
        double both = s0 + s1;
        double mean_a = both > 0 ? (v0 * (i0 + i1) - 4 * r / 3 * (i0 * i0 + i0 * i1 + i1 * i1)) / both : i0;
        sum += span_s * mean_a;
        at_s = next_s;
    }
    return sum;
}

struct rail_mean rail_mean(const struct rail *rail, double from_s, double to_s) {
    double span_s = to_s - from_s, charge_c = 0;
    if (rail->source_ohm <= 0) {
        charge_c = rail_energy_j(rail, from_s, to_s) / rail->supply_v;
    } else {
        for (size_t i = 0; i < rail->count; i++) {
            const struct load *load = &rail->loads[i];
            double begin_s = fmax(from_s, load->from_s);
            double end_s = i + 1 < rail->count ? fmin(to_s, rail->loads[i + 1].from_s) : to_s;
            if (end_s > begin_s) charge_c += walk_charge_c(rail, load, begin_s - load->from_s, end_s - load->from_s);
        }
    }
    double current_a = charge_c / span_s;
    return (struct rail_mean){current_a, rail->supply_v - rail->source_ohm * current_a};
}
