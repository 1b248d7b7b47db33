// Pictures that are JPEG: decoded by the browser, off the page's thread; the newest only.

/** See `Feed` in feeds.js for what a player is. */
export class JpegPlayer {
    name = "jpeg";
    element = document.createElement("canvas");
    #context = this.element.getContext("bitmaprenderer");
    #host;
    #next = null;
    #busy = false;
    #stopped = false;
    #warned = false;

    constructor(host) {
        this.#host = host;
    }

    push(message) {
        if (this.#next !== null) {
            this.#host.done(this.#next); // a newer one is here
        }
        this.#next = message;
        if (!this.#busy) {
            this.#run();
        }
    }

    async #run() {
        this.#busy = true;
        while (this.#next !== null) {
            const message = this.#next;
            this.#next = null;
            try {
                const bitmap = await createImageBitmap(new Blob([message.payload], { type: "image/jpeg" }));
                this.#draw(bitmap, message);
            } catch (error) {
                if (!this.#warned) {
                    console.warn(`camfabric: ${this.#host.title}: a JPEG that cannot be decoded is left out:`, error);
                    this.#warned = true;
                }
            }
            this.#host.done(message);
        }
        this.#busy = false;
    }

    #draw(bitmap, message) {
        if (this.#stopped) {
            bitmap.close();
            return;
        }
        const { width, height } = bitmap;
        if (this.element.width !== width || this.element.height !== height) {
            this.element.width = width;
            this.element.height = height;
        }
        this.#context.transferFromImageBitmap(bitmap);
        this.#host.drawn(message, width, height);
    }

    /** No more pictures; the last one stays in the element. */
    stop() {
        this.#stopped = true;
        if (this.#next !== null) {
            this.#host.done(this.#next);
            this.#next = null;
        }
    }

    release() {}
}
