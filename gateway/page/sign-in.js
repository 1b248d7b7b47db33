// The sign-in form says here what was wrong, and leads back to the camera that was asked for.

const form = document.querySelector("form");
const [button, alert] = [form.querySelector("button"), form.querySelector("[role=alert]")];

async function signIn() {
    const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
    if (answer.ok) {
        location.replace(new URL(".", document.baseURI) + location.hash);
        return;
    }
    const text = await answer.text();
    let why = text.trim();
    try {
        why = JSON.parse(text).error ?? why;
    } catch {
        // it is plain text
    }
    throw new Error(why.slice(0, 200) || `the gateway answered ${answer.status}`);
}

form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    alert.textContent = "";
    try {
        await signIn();
    } catch (error) {
        alert.textContent = error instanceof TypeError ? "The gateway cannot be reached." : error.message;
        button.disabled = false;
        form.elements.password.select();
    }
});
