// The tree of names: a segment a level. A folder filters the wall, a camera is enlarged. A name can be both: two items.

import { byName } from "./layout.js";

/** Events: "folder" (detail: leading segments), "camera" (detail: a name). */
export class Tree extends EventTarget {
    #root;
    #names = "";
    #items = new Map(); // by path: a camera's is its name, a folder's ends in a slash
    #closed = new Set();

    constructor(root) {
        super();
        this.#root = root;
        root.addEventListener("click", (event) => this.#click(event));
        root.addEventListener("keydown", (event) => this.#key(event));
    }

    /** Shows these names; does nothing where they are the same. */
    build(names) {
        if (this.#names === names.join("\n")) {
            return;
        }
        this.#names = names.join("\n");
        const focused = this.#root.contains(document.activeElement) ? document.activeElement.dataset.path : null;
        const top = { folders: new Map(), cameras: [] };
        for (const name of names) {
            const segments = name.split("/");
            let level = top;
            for (const segment of segments.slice(0, -1)) {
                if (!level.folders.has(segment)) {
                    level.folders.set(segment, { folders: new Map(), cameras: [] });
                }
                level = level.folders.get(segment);
            }
            level.cameras.push(segments.at(-1));
        }
        this.#items.clear();
        this.#root.replaceChildren(...this.#level(top, ""));
        (this.#items.get(focused) ?? this.#root.querySelector("[role=treeitem]"))?.setAttribute("tabindex", "0");
        this.#items.get(focused)?.focus();
    }

    #level({ folders, cameras }, path) {
        const rows = [...cameras.map((name) => [name, null]), ...folders].sort(([a], [b]) => byName(a, b));
        return rows.map(([name, under]) => {
            const full = path + name + (under === null ? "" : "/");
            const item = document.createElement("li");
            item.setAttribute("role", "treeitem");
            item.tabIndex = -1;
            item.dataset.path = full;
            this.#items.set(full, item); // before those under it: the order is that of the eye
            const row = document.createElement("div");
            row.className = "row";
            const mark = document.createElement("i");
            const label = document.createElement("span");
            label.textContent = name;
            row.append(mark, label);
            item.append(row);
            if (under !== null) {
                mark.className = "twist";
                const isOpen = !this.#closed.has(full);
                item.setAttribute("aria-expanded", String(isOpen));
                const group = document.createElement("ul");
                group.setAttribute("role", "group");
                group.append(...this.#level(under, full));
                item.append(group);
            } else {
                mark.className = "dot";
                item.dataset.camera = full;
            }
            return item;
        });
    }

    /** How a camera is: see Tile. */
    mark(camera, state) {
        const item = this.#items.get(camera);
        if (item !== undefined && item.dataset.state !== state) {
            item.dataset.state = state;
        }
    }

    /** Which camera, or folder with a slash behind it, the wall shows. */
    select(path) {
        for (const [name, item] of this.#items) {
            item.setAttribute("aria-selected", String(name === path));
        }
    }

    #click(event) {
        const item = event.target.closest("[role=treeitem]");
        if (item === null) {
            return;
        }
        if (event.target.classList.contains("twist")) {
            this.#open(item, item.getAttribute("aria-expanded") !== "true");
        } else {
            this.#choose(item);
        }
        this.#focus(item);
    }

    #choose(item) {
        const { camera, path } = item.dataset;
        const [type, detail] = camera === undefined ? ["folder", path.slice(0, -1)] : ["camera", camera];
        this.dispatchEvent(new CustomEvent(type, { detail }));
    }

    #open(item, isOpen) {
        if (item.hasAttribute("aria-expanded")) {
            item.setAttribute("aria-expanded", String(isOpen));
            this.#closed[isOpen ? "delete" : "add"](item.dataset.path);
        }
    }

    #focus(item) {
        this.#items.forEach((each) => { each.tabIndex = -1; });
        item.tabIndex = 0;
        item.focus();
    }

    #key(event) {
        const item = event.target.closest("[role=treeitem]");
        if (item === null || event.ctrlKey || event.altKey || event.metaKey) {
            return;
        }
        const seen = [...this.#items.values()].filter((each) => each.getClientRects().length > 0);
        const at = seen.indexOf(item);
        const isOpen = item.getAttribute("aria-expanded");
        const parent = item.parentElement.closest("[role=treeitem]");
        const act = {
            ArrowDown: () => this.#focus(seen[Math.min(at + 1, seen.length - 1)]),
            ArrowUp: () => this.#focus(seen[Math.max(at - 1, 0)]),
            Home: () => this.#focus(seen[0]),
            End: () => this.#focus(seen.at(-1)),
            ArrowRight: () => (isOpen === "false" ? this.#open(item, true) : isOpen === "true" && this.#focus(seen[at + 1])),
            ArrowLeft: () => (isOpen === "true" ? this.#open(item, false) : parent && this.#focus(parent)),
            Enter: () => this.#choose(item),
            " ": () => this.#choose(item),
        }[event.key];
        if (act !== undefined) {
            act();
            event.preventDefault();
            event.stopPropagation();
        }
    }
}
