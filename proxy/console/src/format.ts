// Numbers and times as people read them.

/** Stands for what is not known. */
export const NOTHING = "\u2013";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

export function count(value: number): string {
  return whole.format(value);
}

/** Times a second. */
export function rate(value: number): string {
  return value > 0 && value < 100 ? tenths.format(value) : whole.format(value);
}

/** A share of one as per cent; never rounded up to all. */
export function share(value: number | null): string {
  if (value === null) return NOTHING;
  if (value >= 1) return "100 %";
  return `${(Math.floor(value * 10_000) / 100).toFixed(2)} %`;
}

export function micros(value: number | null | undefined): string {
  if (value === null || value === undefined) return NOTHING;
  if (value === 0) return "0";
  if (value < 1_000) return `${value < 10 ? tenths.format(value) : whole.format(value)} \u00b5s`;
  if (value < 1_000_000) return `${value < 100_000 ? tenths.format(value / 1_000) : whole.format(value / 1_000)} ms`;
  return `${tenths.format(value / 1_000_000)} s`;
}

/** Hours, minutes, seconds and milliseconds of a time in RFC 3339, which is in UTC as the log is. */
export function clock(time: string): string {
  return time.slice(11, 23);
}

export function ago(seconds: number): string {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5_400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129_600) return `${Math.round(seconds / 3_600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

/** A route; requests that found none have no name. */
export function route(name: string | undefined): string {
  return name ? name : "no route";
}
