// How many columns a wall has.

const ASPECT = 16 / 9;
const LEAST_PX = 150;
const MOST_TILES = 240; // at once on a screen: a viewer has 256 streams

/**
 * {columns, width} in px of `count` tiles in a space of width × height px: the largest that all fit; where they would be
 * too small, smaller ones fit as many columns as can be, and the wall scrolls.
 */
export function layout(count, width, height, { gap, aspect = ASPECT }) {
    const least = Math.max(LEAST_PX, Math.sqrt(width * height * aspect / MOST_TILES));
    let best = { columns: 1, width: 0 };
    for (let columns = 1; columns <= count; columns += 1) {
        const rows = Math.ceil(count / columns);
        const across = (width - gap * (columns - 1)) / columns;
        const down = (height - gap * (rows - 1)) / rows * aspect;
        const tile = Math.floor(Math.min(across, down));
        if (tile > best.width) {
            best = { columns, width: tile };
        }
    }
    if (best.width < least) {
        const columns = Math.max(1, Math.floor((width + gap) / (least + gap)));
        return { columns, width: Math.floor((width - gap * (columns - 1)) / columns) };
    }
    return best;
}

/** The middle one of the cameras' aspect ratios, within reason. */
export function usualAspect(statuses) {
    const ratios = statuses.filter(({ width, height }) => width > 0 && height > 0).map(({ width, height }) => width / height);
    ratios.sort((a, b) => a - b);
    return Math.min(2, Math.max(1, ratios[ratios.length >> 1] ?? ASPECT));
}

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

/** cam/2 comes before cam/10. */
export const byName = (a, b) => collator.compare(a, b);

/**
 * Which names a filter leaves: leading segments where it is such ("cctv" is cctv/gate and never cctv2/gate), otherwise
 * those that have all its words in them.
 */
export function matching(names, filter) {
    const wanted = filter.trim().toLowerCase().replace(/\/+$/, "");
    if (wanted === "") {
        return names;
    }
    const under = names.filter((name) => `${name.toLowerCase()}/`.startsWith(`${wanted}/`));
    if (under.length > 0) {
        return under;
    }
    const words = wanted.split(/\s+/);
    return names.filter((name) => words.every((word) => name.toLowerCase().includes(word)));
}
