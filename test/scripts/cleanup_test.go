package scripts

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// sleeper starts a process that belongs to a home below folder, by its environment.
func sleeper(t *testing.T, folder string) *background {
	t.Helper()
	command := exec.Command("sleep", "1000")
	command.Env = []string{"HOLDFAST_HOME=" + folder + "/home"}
	b, err := startBackground(command)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.end)
	return b
}

// TestLeftoversAreFound proves that a script cannot pass with a process left, and that others' processes are safe.
func TestLeftoversAreFound(t *testing.T) {
	folder := t.TempDir()
	other := sleeper(t, folder+"-other")
	left := sleeper(t, folder)
	err := killLeftovers(folder)
	if err == nil || !strings.Contains(err.Error(), `"sleep 1000 "`) {
		t.Fatalf("want an error that names the process, got %v", err)
	}
	<-left.done
	if err := killLeftovers(folder); err != nil {
		t.Fatal(err)
	}
	select {
	case <-other.done:
		t.Fatal("a process of another folder was killed")
	default:
	}
}

// TestReaper kills what tests leave that die without a word, and nothing when they end properly.
func TestReaper(t *testing.T) {
	for _, word := range []string{"", "done"} {
		folder := t.TempDir()
		left := sleeper(t, folder)
		reaper := exec.Command(os.Args[0])
		reaper.Env = append(os.Environ(), reaperVariable+"=1", rootVariable+"="+folder)
		reaper.Stdin = strings.NewReader(word)
		err := reaper.Run()
		if word == "" {
			<-left.done
			if _, err := os.Stat(folder); !os.IsNotExist(err) {
				t.Errorf("the folder is still there: %v", err)
			}
			continue
		}
		if err != nil {
			t.Errorf("a reaper that was dismissed: %v", err)
		}
		select {
		case <-left.done:
			t.Error("a reaper that was dismissed has killed")
		default:
		}
	}
}
