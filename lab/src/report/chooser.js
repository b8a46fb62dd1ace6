// Asks the questions one after another, and shows only the rows that fit the answers.
const questions = [...document.querySelectorAll(".chooser fieldset")];
const rows = [...document.querySelectorAll(".chooser [data-if]")].map((row) => ({
    row,
    conditions: row.dataset.if.split(" ").map((condition) => condition.split("=")),
}));

function choose() {
    const answers = {};
    let open = true;
    for (const question of questions) {
        const fits = rows.filter(({ conditions }) =>
            conditions.every(([name, value]) => !(name in answers) || answers[name] === value));
        const name = question.name;
        question.hidden = !open || !fits.some(({ conditions }) => conditions.some((one) => one[0] === name));
        if (question.hidden) continue;
        const answer = question.querySelector("input:checked");
        if (answer) answers[name] = answer.value;
        else open = false;
    }
    for (const { row, conditions } of rows) {
        row.hidden = conditions.some(([name, value]) => name in answers && answers[name] !== value);
    }
}

document.querySelector(".chooser").addEventListener("change", choose);
choose();
