// Figures as people read them. Every function takes null for what the box cannot tell.

export const UNKNOWN = "–";

const MIB = 1 << 20;

export function number(value, digits = 0) {
  if (value === null || value === undefined) return UNKNOWN;
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export function bytes(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value < MIB) return `${number(value / 1024)} KiB`;
  return value < 1024 * MIB ? `${number(value / MIB)} MiB` : `${number(value / 1024 / MIB, 1)} GiB`;
}

export function seconds(value) {
  if (value === null || value === undefined) return UNKNOWN;
  return value < 10 ? `${number(value, 2)} s` : `${number(value, 1)} s`;
}

// 93784 → "1 d 2 h": the two largest units.
export function duration(value) {
  let left = Math.floor(value);
  const parts = [];
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    const count = Math.floor(left / length);
    left -= count * length;
    if (count || (unit === "s" && !parts.length)) parts.push(`${count} ${unit}`);
  }
  return parts.slice(0, 2).join(" ");
}

export function speed(value) {
  return value === null || value === undefined ? UNKNOWN : `${number(value, value < 100 ? 1 : 0)} tokens/s`;
}
